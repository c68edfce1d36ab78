"""What is made while another is used."""

import threading
from collections.abc import Iterator

import pytest

from electra_jax.data.ahead import one_ahead


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    for i in one_ahead(items()):
        if i + 1 < len(made):
            assert made[i + 1].wait(timeout=30)
        assert not any(event.is_set() for event in made[i + 2 :])


def test_items_keep_their_order_and_none_is_lost() -> None:
    assert list(one_ahead(range(1000))) == list(range(1000))
    assert list(one_ahead([])) == []


def test_an_error_is_raised_where_the_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = one_ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
