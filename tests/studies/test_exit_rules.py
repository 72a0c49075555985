"""Rules on arrays against the loops that their papers describe."""

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from sklearn_epee.policy import apply_policy, exit_layers
from studies.exit_rules import RULES, Network, largest_of_last
from studies.rules import apply
from tests.studies.staged import make_network

CHECKED = 30  # samples that loops go through


@pytest.fixture(scope="module")
def network():
    return make_network()


def proba_of(network):
    return network.test.head_proba[0][:CHECKED]


def exits_and_labels(variant, threshold):
    """What a variant does with the test samples."""
    exits = variant.test.exit_layers(threshold, variant.patience)
    return exits, variant.test.predictions[np.arange(len(exits)), exits - 1, 0]


def first(conditions, n_layers):
    """The first layer where a condition holds, counted from 1; the last one if there is none."""
    return next((m for m, holds in enumerate(conditions, start=1) if holds), n_layers)


@pytest.mark.parametrize("name", list(RULES))
def test_rules_take_any_number_of_classes_and_exit_at_layers_that_there_are(name):
    for n_classes, n_layers in ((1, 3), (2, 4), (5, 1)):
        some = make_network(40, n_layers, n_classes)
        found = apply(RULES[name], some, 20)
        layers = found.test.layers
        assert layers.shape == (len(found.settings), 40)
        assert layers.min() >= 1
        assert layers.max() <= n_layers


def test_epee_is_the_policy_of_the_package(network):
    proba = network.test.head_proba[0]
    found = apply(RULES["epee"], network, 30)
    for (parameters, tau), exits in zip(found.settings, found.test.layers, strict=True):
        np.testing.assert_array_equal(exits, exit_layers(proba, tau, parameters["patience"]))
    variant = list(RULES["epee_mean"].variants(network))[1]
    expected = apply_policy(proba, 0.3, 2, exit_ensemble="mean")
    exits, labels = exits_and_labels(variant, 0.3)
    np.testing.assert_array_equal(exits, expected.exit_layer)
    np.testing.assert_array_equal(labels, expected.prediction)


def test_entropy_and_patience_are_the_edges_of_epee(network):
    proba = network.test.head_proba[0]
    (entropy,) = RULES["entropy"].variants(network)
    np.testing.assert_array_equal(exits_and_labels(entropy, 0.4)[0], exit_layers(proba, 0.4))
    found = apply(RULES["patience"], network)
    assert len(found.settings) == network.n_layers
    for (parameters, tau), exits in zip(found.settings, found.test.layers, strict=True):
        assert tau == 0
        np.testing.assert_array_equal(exits, exit_layers(proba, 0, parameters["patience"]))


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_confidence_and_margin_are_compared_layer_by_layer(network, threshold):
    for name, doubt in (
        ("max_probability", lambda p: 1 - max(p)),
        ("margin", lambda p: 1 - (sorted(p)[-1] - sorted(p)[-2])),
    ):
        (variant,) = RULES[name].variants(network)
        exits, _ = exits_and_labels(variant, threshold)
        for sample, found in zip(proba_of(network), exits, strict=False):
            assert found == first((doubt(p) < threshold for p in sample), network.n_layers)


def test_two_classes_make_confidence_margin_and_entropy_one_rule():
    network = make_network(n_classes=2)
    fronts = []
    for name in ("max_probability", "margin", "entropy"):
        found = apply(RULES[name], network, 10_000)  # all thresholds
        fronts.append({tuple(row) for row in found.dev.layers.astype(int)})
    assert fronts[0] == fronts[1] == fronts[2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pcee_waits_for_layers_in_a_row_that_are_all_confident(network, count):
    variant = list(RULES["pcee"].variants(network))[count - 1]
    exits, _ = exits_and_labels(variant, 0.5)
    for sample, found in zip(proba_of(network), exits, strict=False):
        confident = scipy_entropy(sample, axis=1) / np.log(sample.shape[1]) < 0.5
        counter, expected = 0, network.n_layers
        for layer, is_confident in enumerate(confident, start=1):
            counter = counter + 1 if is_confident else 0
            if counter == count:
                expected = layer
                break
        assert found == expected


def test_the_largest_of_the_last_layers_is_infinite_before_there_are_enough():
    found = largest_of_last(np.array([[0.5, 0.2, 0.4]]), 2)
    np.testing.assert_array_equal(found, [[np.inf, 0.5, 0.4]])


@pytest.mark.parametrize("threshold", [0.55, 0.8, 0.95])
def test_beem_adds_confidences_up_while_exits_agree(network, threshold):
    n_layers = network.n_layers
    weights = np.arange(1, n_layers + 1) / np.arange(1, n_layers + 1).sum()
    variant = next(v for v in RULES["beem"].variants(network) if v.parameters["weights"] == "cost")
    exits, _ = exits_and_labels(variant, threshold)
    for sample, found in zip(proba_of(network), exits, strict=False):
        total, last, expected = 0.0, None, n_layers
        for layer, p in enumerate(sample, start=1):
            total = weights[layer - 1] * p.max() + (total if p.argmax() == last else 0.0)
            last = p.argmax()
            if 1 - total < threshold:
                expected = layer
                break
        assert found == expected


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_voting_exits_when_a_class_has_votes_enough_and_predicts_it(network, exponent):
    n_layers = network.n_layers
    variants = RULES["voting"].variants(network)
    variant = next(v for v in variants if v.parameters["exponent"] == exponent)
    most = n_layers ** (1 - exponent)
    exits, labels = exits_and_labels(variant, 0.55)
    for sample, found, label in zip(proba_of(network), exits, labels, strict=False):
        for layer in range(1, n_layers + 1):
            votes = np.bincount(sample[:layer].argmax(axis=1), minlength=sample.shape[1])
            if 1 - votes.max() / layer**exponent / most < 0.55 or layer == n_layers:
                break
        assert found == layer
        leading = np.flatnonzero(votes == votes.max())
        assert label == leading[sample[:layer].mean(axis=0)[leading].argmax()]


@pytest.mark.parametrize("name", ["gate", "gate_no_loss"])
def test_the_gate_does_not_learn_from_the_samples_it_is_chosen_on(network, name):
    (known,) = RULES[name].variants(network)
    y = network.dev_y.copy()
    hits = network.dev.predictions[..., 0] == y[:, None]
    row = np.flatnonzero(hits[:, -1] & ~hits[:, 0])[0]  # so that both targets change
    y[row] = (y[row] + 1) % 3
    (changed,) = RULES[name].variants(Network(network.dev, network.test, y, network.test_y))
    same = (known.dev.entropies == changed.dev.entropies).all(axis=(1, 2))
    assert same[row]
    assert same.sum() == 150 // 5  # its fold; the others were learned with it


@pytest.mark.parametrize("name", ["gate", "gate_no_loss"])
def test_the_gate_is_surer_of_exits_that_lose_nothing(network, name):
    (variant,) = RULES[name].variants(network)
    right = network.test.predictions[..., 0] == network.test_y[:, None]
    target = right if name == "gate" else right | ~right[:, -1:]
    doubts = variant.test.entropies[..., 0]
    assert doubts[target].mean() < doubts[~target].mean() - 0.05


def test_a_gate_that_learns_agreement_reads_no_label(network):
    changed = Network(network.dev, network.test, network.dev_y[::-1], network.test_y)
    (known,), (found,) = (RULES["gate_same"].variants(n) for n in (network, changed))
    np.testing.assert_array_equal(known.dev.entropies, found.dev.entropies)
    agrees = network.test.predictions[..., 0] == network.test.predictions[:, -1:, 0]
    doubts = known.test.entropies[..., 0]
    assert doubts[agrees].mean() < doubts[~agrees].mean() - 0.1


def test_a_temperature_changes_entropies_and_no_prediction(network):
    known = next(iter(RULES["epee"].variants(network))).test
    mapped = next(iter(RULES["epee_calibrated"].variants(network))).test
    np.testing.assert_array_equal(mapped.predictions, known.predictions)
    np.testing.assert_array_equal(mapped.counters, known.counters)
    assert (mapped.entropies != known.entropies).any()


def test_no_rule_without_votes_is_above_the_oracle(network):
    oracle = apply(RULES["oracle"], network)
    ratios, scores = (_of_everybody(f, oracle.test) for f in ("ratios", "scores"))
    for name in ("epee", "epee_calibrated", "pcee", "beem", "gate", "gate_no_loss"):
        found = apply(RULES[name], network)
        mine = np.interp(_of_everybody("ratios", found.test), ratios[::-1], scores[::-1])
        assert (_of_everybody("scores", found.test) <= mine + 1e-6).all()


def _of_everybody(what, sums):
    return getattr(sums, what)(np.ones((1, sums.layers.shape[1]), np.float32))[0]


def test_the_oracle_exits_at_the_first_correct_layer():
    proba = np.eye(2)[[[0, 1, 1], [1, 1, 1]]]  # predictions of two samples at three layers
    network = Network.from_arrays(proba, [1, 0], proba, [1, 0])
    found = apply(RULES["oracle"], network)
    np.testing.assert_array_equal(found.test.layers, [[1, 1], [2, 1], [2, 1]])
