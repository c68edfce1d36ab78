"""Documents of English and Chinese."""

import random

ENGLISH = ["The", "Quick", "brown", "foxes", "jump", "over", "lazy", "dogs", "while", "running", "near", "a", "café"]
CHINESE = "我们今天在北京大学学习自然语言处理和机器学习的基本方法"


def make_documents(count: int, seed: int = 0) -> list[str]:
    """Documents of one to six sentences, in two scripts."""
    rng = random.Random(seed)

    def sentence() -> str:
        english = " ".join(rng.choices(ENGLISH, k=rng.randint(1, 12)))
        return f"{english} {''.join(rng.choices(CHINESE, k=rng.randint(0, 10)))}."

    return ["\n".join(sentence() for _ in range(rng.randint(1, 6))) for _ in range(count)]
