"""Work that is done while another is waited for."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
END = object()


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, of which the next is made in a thread while this one is used.

    It pays where making it waits, or computes without Python's lock, as the tokenizers do.
    """
    made = iter(items)
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, made, END)
        while (item := pending.result()) is not END:
            pending = thread.submit(next, made, END)
            yield item  # type: ignore[misc]
