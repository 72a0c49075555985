"""Words have numbers of their own, sentence after sentence or by slots that are used again."""

from __future__ import annotations

import numpy as np
import pytest

from sklearn_epee._nn.word_numbers import WordNumbers, WordSlots


def test_numbers_of_words_that_lie_in_order():
    words = WordNumbers.in_order(np.array([2, 1, 3]))
    assert words.of(np.array([2, 0])).tolist() == [3, 4, 5, 0, 1]
    assert words.of(np.array([], np.intp)).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_sentences_that_are_held_share_no_number(seed):
    rng = np.random.default_rng(seed)
    words, free, held = WordSlots(6), list(range(6)), {}
    for _ in range(200):
        rng.shuffle(free)
        if free and rng.random() < 0.5:
            slots = [free.pop() for _ in range(int(rng.integers(1, len(free) + 1)))]
            counts = rng.integers(1, 20, len(slots))
            words.assign(np.array(slots), counts)
            held.update(zip(slots, counts.tolist(), strict=True))
        elif held:
            slots = rng.choice(list(held), int(rng.integers(1, len(held) + 1)), replace=False)
            words.release(slots)
            for slot in slots.tolist():
                free.append(slot)
                del held[slot]
        numbers = words.of(np.array(list(held), np.intp))
        assert len(np.unique(numbers)) == len(numbers) == sum(held.values())
        assert not len(numbers) or numbers.max() < words.n_numbers
    # Six sentences of each of the sizes 1, 2, 4, 8, 16, 32 at most.
    assert words.n_numbers <= 6 * 63


def test_a_free_run_goes_to_the_next_sentence_of_its_size():
    words = WordSlots(3)
    words.assign(np.array([0, 1]), np.array([5, 3]))
    words.release(np.array([0]))
    words.assign(np.array([2]), np.array([8]))
    assert words.of(np.array([2])).tolist() == list(range(8))
    assert words.n_numbers == 8 + 4
