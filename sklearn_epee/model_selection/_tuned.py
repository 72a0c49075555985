"""TunedExitPolicyClassifierCV: choose the exit policy from data, optionally with a guarantee."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.base import clone
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping

from sklearn_epee._compat import HasMethods, Interval, RealNotInt, StrOptions
from sklearn_epee._exits.wrappers import (
    check_has_exits,
    exit_classifier,
    with_classifier,
    with_policy,
)

from ._guarantee_parameters import check_guarantee
from ._risks import LossFunction
from ._selection import Objective
from ._staging import is_own_splitter
from ._tuning import BaseTunedExitPolicy, check_policies

# Attributes that depend on parameters.
_CONDITIONAL_ATTRIBUTES = (
    "cv_results_",
    "certified_",
    "risk_bound_",
    "risk_",
    "risk_by_group_",
    "risk_by_exit_",
    "candidates_",
    "p_values_",
    "n_calibration_",
)


class TunedExitPolicyClassifierCV(BaseTunedExitPolicy):
    """Early-exit classifier with an exit policy tuned by cross-validation.

    The thresholds `tau` and `patience` of EPEE [1]_ only affect prediction. So each split costs one
    training and one forward pass; then all policies (each patience with each `tau` at which the
    decision for any sample changes) are evaluated exactly on the probabilities of all exits. With
    `confidence`, the chosen policy comes with a guarantee for new data.

    Parameters
    ----------
    estimator : estimator
        A classifier with early exits, such as :class:`~sklearn_epee.EPEEClassifier` or
        :class:`~sklearn_epee.EPEETokenClassifier`; or a pipeline, search object or
        :class:`ExitCalibratedClassifier` that ends in one. Inside a
        :class:`~sklearn.frozen.FrozenEstimator` it is not trained again: the policy is chosen on
        all samples given to `fit`, which should not be those it was trained on, and `cv` and
        `refit` are ignored.
    objective : {"auto", "max_score", "max_speedup"} or callable, default="auto"
        What to maximize among the policies that satisfy the constraints below: the score or the
        speed-up ratio. "auto" is "max_speedup" if `max_accuracy_drop` or `confidence` is given,
        else "max_score". A callable takes the table of these policies, a dict of arrays "tau",
        "patience", "score" and "speedup", and returns the index of one of its rows.
    min_speedup : float in [0, 1), default=None
        Smallest accepted speed-up ratio. With M layers, the largest possible ratio is 1 - 1/M.
    max_accuracy_drop : float in [0, 1), default=None
        Largest accepted decrease of the score, given by `scoring`, relative to full depth. With
        `confidence`, largest decrease of the accuracy of the chosen policy on new data.
    confidence : float in (0, 1), default=None
        Probability with which the bound on the risk holds for the chosen policy on new data, such
        as 0.95; see Notes. None chooses by the observed scores, without a guarantee, unless
        `guarantee` is "expectation".
    guarantee : {"probability", "expectation"}, default="probability"
        "probability" bounds the risk of the chosen policy with the probability `confidence`.
        "expectation" bounds the expected loss of a new sample, averaged over draws of the
        calibration samples. This allows faster policies: the risk of the chosen one may be above
        the bound in some draws and below it in others. It requires ``confidence=None``, and a risk
        that is 0 at full depth.
    risk : {"accuracy_drop", "disagreement", "error", "brier_increase", "proba_change", \
            "brier_score"}, ("miss", label) or callable, default="accuracy_drop"
        The risk that the guarantee bounds: the accuracy lost relative to full depth, the share of
        predictions that differ from full depth, the error rate, the increase of the Brier score
        relative to full depth, the distance of the probabilities from those of full depth, the
        Brier score, or the share of the samples of one class that are predicted as another class.
        The Brier score is half the sum of squared differences between probabilities and the truth,
        1 for the true class and 0 for the others; the distance is the same with the probabilities
        of full depth in place of the truth. Both lie between 0 and 1. A callable takes the true
        labels, the predicted labels at an exit and those at full depth, and returns one loss per
        sample, in [0, 1].
    max_risk : float in (0, 1), default=None
        Bound on `risk`; for "accuracy_drop" it is given as `max_accuracy_drop`.
    per_class : bool, default=False
        Whether the bound on `risk` has to hold for the samples of each class in `classes_`.
    per_exit : bool, default=False
        Whether the bound on `risk` also has to hold among the samples that exit at each early
        layer. Layers at which too few samples exit for a test are bounded together with the next
        ones, see Notes. Requires `confidence`.
    scoring : str or callable, default="f1_macro"
        The score, higher is better: the name of a scikit-learn scorer or
        ``scorer(estimator, X, y)``. The default gives all classes the same weight, because the
        fastest policy within one point of accuracy may never predict a rare class, see Notes. All
        policies are compared for "accuracy", "balanced_accuracy" and all precision, recall, F and
        Jaccard scores, by their names, such as "f1_macro", or as made by
        :func:`~sklearn.metrics.make_scorer`,
        ``make_scorer(f1_score, labels=["effect", "int"], average="micro")`` for example; also for
        :func:`~sklearn_epee.positive_f1_scorer`, which leaves a negative class out. Other scorers
        are called for at most 100 quantiles of tau with each patience, unless `policies` says
        otherwise, with an estimator whose predictions are precomputed. With several tasks,
        "accuracy" counts samples that are correct in every task, "balanced_accuracy" and "f1_macro"
        are means over the tasks, and all policies are also compared for
        :func:`~sklearn_epee.task_accuracy_score`; the other scores need a single task. With several
        labels, "accuracy" counts samples whose whole set of labels is correct; all precision,
        recall, F and Jaccard scores are compared for all policies, also with the average "samples",
        and "average_precision", which needs no thresholds, for 100 quantiles. For token classifiers
        see Notes.
    policies : "all", int or dict, default="all"
        The policies to choose from: "all"; an int, the maximum number of quantiles of tau with each
        patience (1000 is plenty); or a dict with the keys "tau" ("all", an int or thresholds),
        "patience" ("all" or integers), "min_exit_layer" ("all" or integers; without this key, that
        of `estimator`), "n_layers" ("all" or integers; without this key, all layers): with fewer
        layers, all samples exit at the last of them, and `estimator_` only has the first layers
        (:meth:`~sklearn_epee.EPEEClassifier.first_layers`), and "joint_exit" (a list with some of
        "all", "mean" and "any"; without this key, that of `estimator`), for words, several tasks or
        several labels. The time grows with the number of values of the last three, of which there
        can be one each with `confidence` or `guarantee`. If words exit one by one, a dict with
        thresholds is required.
    cv : int, float, cross-validation generator, iterable or "prefit", default=None
        None is a stratified 5-fold split, an int the number of its folds; a float in (0, 1) the
        share held out in a single stratified split. With ``groups`` in `fit`, splits keep groups
        together. "prefit" uses `estimator` as it is, like a frozen one.
    refit : bool, default=True
        Whether to train a final network on all samples. False requires a single split, whose
        network is kept. Must be False for "prefit".
    n_jobs : int, default=None
        Splits trained in parallel. None is 1 unless in a joblib context, -1 all processors.
    random_state : int, RandomState instance or None, default=None
        Draws the single split of a float `cv`, and the two parts of the samples that `confidence`
        needs.
    store_cv_results : bool, default=False
        Whether to keep the table of all policies. It may have millions of rows.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator, with the chosen policy.
    best_tau_ : float
        Chosen threshold, halfway between the two entropies next to it.
    best_patience_ : int
        Chosen patience, from 1 to M.
    best_min_exit_layer_ : int
        Chosen first layer at which samples may exit, from 1 to M; that of `estimator` if `policies`
        names none.
    best_n_layers_ : int
        Chosen number of layers, from 1 to M; M if `policies` does not have the key "n_layers".
    best_joint_exit_ : {"all", "any", "mean"}
        Chosen way in which the words, tasks or labels of a sample exit together; that of
        `estimator` if `policies` names none.
    full_depth_n_layers_ : int
        Number of layers M of the whole network, to which speed-ups and guarantees refer.
    best_score_ : float
        Score of the chosen policy on the held-out samples, or, with a guarantee, on those of them
        that were tested.
    best_speedup_ : float
        Speed-up ratio of the chosen policy on the same samples, relative to all M layers.
    full_depth_score_ : float
        Score of the policy that never exits early, on the same samples.
    class_report_ : dict of ndarray
        Effect of the chosen policy on each class, on the same samples: "class", "n_samples",
        "full_depth_recall", "recall", "mean_exit_layer" and "p_value", that of the sign test of
        "the class loses no recall"; with several tasks also "task". Can be converted to a data
        frame.
    pareto_front_ : dict of ndarray
        "tau", "patience", "min_exit_layer", "n_layers", "joint_exit", "score" and "speedup" of the
        Pareto-optimal policies, for which no other policy is better in score or speed-up and at
        least as good in the other, from the slowest to the fastest. Can be converted to a data
        frame.
    cv_results_ : dict of ndarray
        The same columns for all policies. Only with ``store_cv_results=True``.
    certified_ : bool
        Whether the chosen policy passed the test. This attribute and the following ones only exist
        with a guarantee.
    risk_bound_ : float
        The bound on the risk.
    risk_ : float
        Risk of the chosen policy on the tested samples; the largest over classes or groups.
    risk_by_group_ : dict
        The same for each class or group, if there are any; NaN for one without tested samples.
    risk_by_exit_ : dict
        The same among the tested samples that exit at "1", "2-3" and so on, with `per_exit`: blocks
        of layers, and single layers of larger blocks. Empty if no policy was certified.
    candidates_ : dict of ndarray
        "tau", "patience", "speedup", "risk", "p_value" and "certified" of the tested policies, in
        the order of the tests. There are no p-values, NaN, with ``guarantee="expectation"``.
    p_values_ : ndarray of shape (n_candidates,)
        P-values of "the risk of this policy is above the bound", in the order of the tests.
    n_calibration_ : int
        Number of tested samples.
    classes_ : ndarray of shape (n_classes,), or list of such arrays
        Class labels; with several tasks a list with one array per task.
    multilabel_ : bool
        Whether a sample may have any number of the labels in `classes_`.
    n_outputs_ : int
        Number of tasks, or of labels.
    n_layers_ : int
        Number of layers M, and of exits.
    n_features_in_ : int
        Number of features seen in `fit`. Only defined if the underlying estimator has it.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen in `fit`. Only defined if the underlying estimator has them.

    See Also
    --------
    FixedExitPolicyClassifier : Exits by a given policy.
    sklearn.model_selection.TunedThresholdClassifierCV : Chooses a decision threshold.

    Notes
    -----
    **Scores.** The predictions of all splits are scored together, although they come from different
    networks, and the final network, trained on all samples, is yet another one. `best_score_` is
    the maximum over many policies and optimistically biased; evaluate the result on other samples.
    If a class is missing in the training part of a split, its probability is 0 there, and a warning
    says so. Sample weights given to `fit` are used in the score and the speed-up.

    **Rare classes.** A policy may preserve the score and lose a class, because samples of rare
    classes are often wrong at early exits, and have little weight in a score that counts all
    samples alike. A :class:`~sklearn_epee.exceptions.ClassRecallWarning` names each class that
    loses half of its recall, or whose recall drops by 0.1 more than the overall accuracy, if a sign
    test on the samples that the policy and full depth predict differently is significant (p < 0.05,
    so at least five samples). `class_report_` has the numbers.

    **Guarantee.** With `confidence`, the held-out samples are split at random. The first 30 %
    select candidate policies: the Pareto front of speed-up and evidence for a small risk, and
    slower policies with as much evidence as the safest of it (over at most 200 quantiles of tau
    with each patience, unless `policies` says otherwise). The other samples test the candidates in
    sequence, from the safest to the fastest, until the first failure [2]_ [3]_, with the exact
    binomial test if losses are 0 or 1, and betting [4]_ otherwise. The probability that any policy
    certified in this way has a risk above the bound on new data is at most 1 - confidence. This is
    a probability over draws of the samples, which have to be independent and from the same
    distribution as the new data: several notes of one patient are not independent, and those of
    another hospital come from another distribution. Sample weights are not used here. The guarantee
    only holds for the network that was tested, so it requires a frozen or "prefit" estimator, or a
    single split with ``refit=False``.

    With `per_class`, or `risk_groups` given to `fit`, the bound holds for all classes or groups
    simultaneously, with the same probability. If no sample of a known class or group is tested, no
    policy can be certified.

    **At every exit.** With a bound on average, a few early exits may be wrong most of the time.
    With `per_exit` the bound also holds, with the same probability, among the samples that exit at
    each early layer [5]_ at which enough samples exit: on the samples that select candidates, 1.5
    times as many as a test without any loss needs. With fewer samples, no test could certify the
    layer. So layers are also combined into blocks, from the first on, until enough samples exit in
    each, and the bound holds in each block. Blocks depend on the policy, and `risk_by_exit_` names
    them. A policy is certified if all its blocks and single layers pass the test, which needs no
    correction for multiple tests.

    **In expectation.** With ``guarantee="expectation"`` the first part of the samples chooses a
    patience. The candidates form a path from full depth to this patience, and then to larger `tau`
    with it. On the other n samples, the fastest policy on this path is chosen for which (sum of
    losses + 1) / (n + 1) is at most the bound, where the loss of a sample is its maximum over all
    earlier policies of the path [6]_ [7]_.

    If no policy can be certified, a warning says so and samples run through all layers. Then the
    accuracy drop and the disagreement are 0 by definition, but the error or miss rate may still be
    above the bound.

    **Several labels.** Samples exit by the `joint_exit` of `estimator`, which joins the entropies
    of the labels. Patience counts layers that predict the same set, so tune label thresholds first
    (:class:`TunedLabelThresholdsClassifierCV`). For risks, a prediction is an error, or differs
    from full depth, if any of its labels does; "miss" counts the samples that have the label, and
    `per_class` is refused, because its groups would overlap. `class_report_` has the recall of each
    label, and the warning compares it with the recall over all labels. Unknown labels (NaN in `y`)
    are ignored.

    **Token classifiers.** With ``token_exit="sentence"`` a sentence is a sample. All policies are
    compared exactly, at the cost of two passes, because scores of spans are ratios of sums over
    sentences, to which each sentence contributes according to its exit. `scoring` is
    :func:`~sklearn_epee.metrics.span_f1_scorer`, "f1_micro" or "f1_macro" and the other precision,
    recall, F and Jaccard scores of spans and their labels, or "accuracy", the share of words whose
    tags are correct in all layers of spans. The speed-up ratio counts rows, as in
    :func:`~sklearn_epee.speedup_score`. Splits are stratified by the layers in which a sentence has
    spans. `class_report_` counts spans of each label (and "layer"); its sign test compares the
    numbers of sentences with fewer and with more correct spans. F1 is not a mean over sentences, so
    there is no guarantee for "accuracy_drop". There are guarantees for "disagreement" (the share of
    sentences whose spans differ from those of full depth), "error" (the share with a wrong or
    missing span), and a callable that takes three lists of spans. With ``token_exit="token"``, a
    word that exits changes the input of the others, so each policy listed in `policies` is run, in
    addition to full depth, and there is no guarantee.

    **Several tasks.** Samples exit by the `joint_exit` of `estimator`. For risks, a prediction is
    an error, or differs from full depth, if it does so in any task. `per_class` and "miss" need a
    single task, but the labels of one task can be used as `risk_groups`. Splits are stratified by
    the combinations of labels (combinations too rare to be split are treated as one), and a
    splitter gets the numbers of these combinations as its `y`.

    References
    ----------
    .. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
       arXiv:2503.02053.
    .. [2] A. N. Angelopoulos et al., "Learn then Test: calibrating predictive algorithms to achieve
       risk control", arXiv:2110.01052.
    .. [3] B. Laufer-Goldshtein et al., "Efficiently controlling multiple risks with Pareto
       testing", International Conference on Learning Representations (2023).
    .. [4] I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
       Journal of the Royal Statistical Society B 86 (2024).
    .. [5] L. Ringel, R. Cohen, D. Freedman, M. Elad, Y. Romano, "Early time classification with
       accumulated accuracy gap control", arXiv:2402.00857. There the bound holds among the samples
       that have exited by each time.
    .. [6] A. N. Angelopoulos, S. Bates, A. Fisch, L. Lei, T. Schuster, "Conformal risk control",
       arXiv:2208.02814.
    .. [7] M. Jazbec, A. Timans, T. Hadži Veljković, K. Sakmann, D. Zhang, C. A. Naesseth,
       E. Nalisnick, "Fast yet safe: early-exiting with risk control", arXiv:2405.20915.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> X, y = make_supplement_notes(240, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:60], y[:60])
    >>> tuned = TunedExitPolicyClassifierCV(FrozenEstimator(clf), min_speedup=0.5)
    >>> tuned.fit(X[60:], y[60:]).best_speedup_ >= 0.5
    True

    The fastest policy whose predictions differ from those of the whole network for at most a tenth
    of new texts, with 95 % confidence:

    >>> safe = TunedExitPolicyClassifierCV(
    ...     FrozenEstimator(clf),
    ...     risk="disagreement",
    ...     max_risk=0.1,
    ...     confidence=0.95,
    ...     random_state=0,
    ... ).fit(X[60:], y[60:])
    >>> safe.certified_, safe.n_calibration_
    (True, 126)

    Words: the fastest policy whose micro F1 of spans is at most a point below that of full depth.

    >>> from sklearn_epee import EPEETokenClassifier
    >>> from sklearn_epee.metrics import span_f1_scorer
    >>> X = ["Aspirin causes rash.", "No rash from zinc."] * 8
    >>> y = [[(0, 7, "Drug"), (15, 19, "Effect")], [(3, 7, "Effect"), (13, 17, "Drug")]] * 8
    >>> words = EPEETokenClassifier(random_state=0).fit(X, y)
    >>> fast = TunedExitPolicyClassifierCV(
    ...     FrozenEstimator(words), max_accuracy_drop=0.01, scoring=span_f1_scorer()
    ... ).fit(X, y)
    >>> fast.best_score_, fast.best_speedup_ > 0
    (1.0, True)
    >>> fast.predict(["Zinc causes rash."])
    [[(0, 4, 'Drug'), (12, 16, 'Effect')]]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "objective": [StrOptions({"auto", "max_score", "max_speedup"}), callable],
        "min_speedup": [Interval(Real, 0, 1, closed="left"), None],
        "max_accuracy_drop": [Interval(Real, 0, 1, closed="left"), None],
        "confidence": [Interval(Real, 0, 1, closed="neither"), None],
        "guarantee": [StrOptions({"probability", "expectation"})],
        "risk": [str, tuple, callable],
        "max_risk": [Interval(Real, 0, 1, closed="neither"), None],
        "per_class": ["boolean"],
        "per_exit": ["boolean"],
        "scoring": [StrOptions(set(get_scorer_names())), callable],
        "policies": [StrOptions({"all"}), Interval(Integral, 1, None, closed="left"), dict],
        "cv": [
            "cv_object",
            StrOptions({"prefit"}),
            Interval(RealNotInt, 0.0, 1.0, closed="neither"),
        ],
        "refit": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "store_cv_results": ["boolean"],
    }

    # Defaults for estimators that were pickled before these parameters were added.
    guarantee: str = "probability"
    per_exit: bool = False

    def __init__(
        self,
        estimator: Any,
        *,
        objective: str | Objective = "auto",
        min_speedup: float | None = None,
        max_accuracy_drop: float | None = None,
        confidence: float | None = None,
        guarantee: str = "probability",
        risk: str | tuple[str, Any] | LossFunction = "accuracy_drop",
        max_risk: float | None = None,
        per_class: bool = False,
        per_exit: bool = False,
        scoring: str | Callable[..., float] = "f1_macro",
        policies: str | int | dict[str, Any] = "all",
        cv: Any = None,
        refit: bool = True,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        store_cv_results: bool = False,
    ) -> None:
        self.estimator = estimator
        self.objective = objective
        self.min_speedup = min_speedup
        self.max_accuracy_drop = max_accuracy_drop
        self.confidence = confidence
        self.guarantee = guarantee
        self.risk = risk
        self.max_risk = max_risk
        self.per_class = per_class
        self.per_exit = per_exit
        self.scoring = scoring
        self.policies = policies
        self.cv = cv
        self.refit = refit
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.store_cv_results = store_cv_results

    def fit(
        self, X: Any, y: ArrayLike, *, risk_groups: ArrayLike | None = None, **params: Any
    ) -> Self:
        """Choose the policy on held-out samples, and train on all samples.

        The estimator is trained once per split, and once more with `refit`.

        Parameters
        ----------
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Labels; tags or spans for a token classifier.
        risk_groups : array-like of shape (n_samples,), default=None
            Labels of groups, such as sites or sexes, in each of which the bound has to hold. Needs
            `confidence`. None of them may be missing.
        **params : dict
            ``sample_weight`` is passed to the `fit` of `estimator` and counts in the scores. A
            pipeline takes ``<step>__sample_weight``, which reaches its fit alone; for both use
            metadata routing.
            ``groups``, such as the patient or document of each sample, is passed to the splitter.
            Where `cv` is None, an int or a float, no group is in both parts of a split then, and
            the classes are in proportion as far as the groups allow; neither is one in both parts
            of the samples that `confidence` needs. They are passed to the `fit` of `estimator`,
            too, where this takes them and holds samples out. The rest is passed to the `fit` of
            `estimator`. With metadata routing enabled, what goes where is as requested.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If `estimator` ends in no classifier with early exits, or if a frozen or "prefit"
            estimator would ignore an argument.
        ValueError
            If a parameter is not as described, if two contradict each other, or if no policy meets
            the constraints; the message says what can be reached.
        sklearn.exceptions.NotFittedError
            If `estimator` is frozen or "prefit" and not fitted.

        Warns
        -----
        UserWarning
            If no policy that exits early could be certified, or if the training part of a split
            lacks a class.
        sklearn_epee.exceptions.ClassRecallWarning
            If the chosen policy loses much of the recall of a class, see Notes.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(60, random_state=0)
        >>> tuned = TunedExitPolicyClassifierCV(EPEEClassifier(max_epochs=1), cv=2)
        >>> tuned.fit(X, y).best_speedup_ >= 0
        True
        """
        self._validate_params()
        check_has_exits(self.estimator)
        check_policies(self)
        check_guarantee(self, risk_groups)
        given = self._checked(X, y, risk_groups, params)
        validation, fitted = self._stage(given)
        choice, found = self._choose(self._scored(validation, given), given)
        if fitted is None:
            fitted = clone(self.estimator).fit(given.X, given.target.y, **given.fit_params)
        names = ("tau", "patience", "min_exit_layer", "n_layers", "joint_exit")
        tau, patience, min_exit_layer, n_layers, joint = (choice.policy[name] for name in names)
        n_whole = int(exit_classifier(fitted).n_layers_)
        if n_layers < n_whole:
            fitted = with_classifier(fitted, lambda clf: clf.first_layers(n_layers))
        self._adopt(with_policy(fitted, tau, patience, min_exit_layer, joint))
        self.best_tau_, self.best_patience_ = tau, patience
        self.best_min_exit_layer_, self.best_n_layers_ = min_exit_layer, n_layers
        self.best_joint_exit_ = joint
        self.full_depth_n_layers_ = n_whole
        self.best_score_, self.best_speedup_ = choice.policy["score"], choice.policy["speedup"]
        self.full_depth_score_ = choice.full_depth_score
        report = choice.by_class()
        self.class_report_ = report.table()
        for name in _CONDITIONAL_ATTRIBUTES:  # from an earlier fit
            self.__dict__.pop(name, None)
        self.__dict__.update(found)
        report.warn(f"tau={tau:.4g}, patience={patience}", stacklevel=2)
        return self

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata passed to `fit` goes.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
            To the `fit` of `estimator`, the `split` of `cv` and the scorer. The named scorers take
            sample weights, and the splits of a `cv` that is not a splitter take groups.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
        >>> type(TunedExitPolicyClassifierCV(EPEEClassifier()).get_metadata_routing()).__name__
        'MetadataRouter'
        """
        scorer = self.scoring
        if isinstance(scorer, str) and get_config()["enable_metadata_routing"]:
            scorer = get_scorer(scorer).set_score_request(sample_weight=True)
        takes_groups = is_own_splitter(self.cv) or isinstance(self.cv, str)
        splitter = StratifiedGroupKFold() if takes_groups else self.cv
        to_fit, to_split, to_score = (
            MethodMapping().add(caller="fit", callee=callee) for callee in ("fit", "split", "score")
        )
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=to_fit)
            .add(splitter=splitter, method_mapping=to_split)
            .add(scorer=scorer, method_mapping=to_score)
        )
