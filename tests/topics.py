"""The one list of topics: what each takes part in, or why it does not.

A topic is a file of tests, tests/test_<name>.py. Levels and sanitizer run that file; guard pages and determinism hold
a test of the topic, which its record names; the docs have a page. Every file of tests and every page of docs/topics.md
is in the list (test_topics.py), so a new topic cannot be forgotten by any of them: a kernel adds one record here.
"""

from dataclasses import dataclass


class No(str):
    """The reason why a topic does not take part; false in an `if`."""

    def __bool__(self):
        return False


@dataclass(frozen=True)
class Topic:
    name: str
    page: str  # docs/<page>.md
    guard_pages: str  # a test of test_guard_pages.py
    determinism: str  # a test of test_determinism.py
    levels: bool | No = True
    sanitizer: bool | No = True


USERS_PAGE = No("tests what surrounds a topic that has a page")
TESTS_PAGE = No("a promise of every topic: reliability.md names its tests")
PYTHON = No("runs no kernel that another topic does not test")
PROCESS = No("tests what a process has, not what a kernel computes")
MACHINE = No("measures the machine: no result to compare")
SUITE = No("calls the kernels of all topics itself")
ITSELF = No("compares teams in its own file")
NETWORK = "test_networks_stay_inside"
TRAINING = "test_whole_training_gives_the_same_bits"


def without_kernels(name, page=USERS_PAGE, why=PYTHON, sanitizer=None):
    return Topic(name, page, why, why, why, why if sanitizer is None else sanitizer)


TOPICS = (
    # ---------------------------------------------------------------- kernels
    Topic("activations", "activations", "test_activations_stay_inside", "test_activations_give_the_same_bits"),
    Topic("dense", "dense", "test_dense_stays_inside", "test_dense_gives_the_same_bits_forward_and_backward"),
    Topic(
        "grouped_dense",
        "grouped_dense",
        "test_grouped_dense_stays_inside",
        "test_grouped_dense_gives_the_same_bits_forward_and_backward",
    ),
    Topic("maxout", "maxout", "test_maxout_stays_inside", "test_maxout_gives_the_same_bits_forward_and_backward"),
    Topic(
        "conv2d", "conv2d", "test_convolutions_stay_inside", "test_convolutions_give_the_same_bits_forward_and_backward"
    ),
    Topic("pool2d", "pool2d", "test_pooling_stays_inside", "test_pooling_gives_the_same_bits_forward_and_backward"),
    Topic(
        "batch_norm",
        "batch_norm",
        "test_batch_norm_stays_inside",
        "test_batch_norm_gives_the_same_bits_forward_and_backward",
    ),
    Topic("dropout", "dropout", "test_dropout_stays_inside", "test_dropout_gives_the_same_bits"),
    Topic("augment", "augment", "test_augmentation_stays_inside", ITSELF),
    Topic(
        "standardize", "standardize", "test_standardization_stays_inside", "test_standardization_gives_the_same_bits"
    ),
    Topic("whiten", "whiten", NETWORK, TRAINING),
    Topic("losses", "losses", "test_losses_stay_inside", "test_losses_give_the_same_bits"),
    Topic("optim", "optim", "test_optimizers_stay_inside", "test_optimizers_give_the_same_bits"),
    Topic("regularization", "regularization", NETWORK, ITSELF),
    Topic("reduction", "parallel", "test_sums_of_parts_stay_inside", ITSELF),
    # ---------------------------------------------------------------- programs of kernels
    Topic("program", "program", NETWORK, "test_predict_and_gradients_give_the_same_bits"),
    Topic("values", "program", NETWORK, ITSELF),
    Topic("trainer", "program", NETWORK, "test_a_trainers_step_gives_the_same_bits"),
    Topic("concat", "images", NETWORK, ITSELF),
    Topic("images", "images", NETWORK, ITSELF),
    Topic("add", "images", NETWORK, ITSELF),
    Topic("models", "models", NETWORK, ITSELF, sanitizer=PYTHON),
    Topic("fold", "program", NETWORK, ITSELF),
    Topic("hooks", "hooks", NETWORK, ITSELF),
    Topic("frozen", "hooks", NETWORK, ITSELF),
    Topic("newton_hvp", "newton_curvature", NETWORK, "test_hessian_vector_products_give_the_same_bits"),
    Topic("newton_glm", "newton_glm", "test_generalized_linear_models_stay_inside", ITSELF),
    Topic("newton_glm_design", "newton_glm", "test_entries_of_generalized_linear_models_stay_inside", ITSELF),
    # ---------------------------------------------------------------- promises of every kernel
    Topic("determinism", TESTS_PAGE, SUITE, SUITE),
    Topic("guard_pages", TESTS_PAGE, SUITE, SUITE),
    Topic("errors", TESTS_PAGE, SUITE, SUITE),
    # ---------------------------------------------------------------- around kernels
    without_kernels("initialization", "initialization"),
    without_kernels("metrics", "metrics"),
    without_kernels("evaluation", "metrics"),
    without_kernels("schedules", "schedules"),
    without_kernels("newton", "newton"),
    without_kernels("newton_cg", "newton_curvature"),
    without_kernels("newton_glm_columns", "newton_glm"),
    without_kernels("newton_glm_inference", "newton_glm_inference"),
    without_kernels("newton_glm_frames", "newton_glm"),
    without_kernels("newton_glm_bounds", "newton_glm"),
    without_kernels("lowrank_layers", "lowrank_layers"),
    without_kernels("compress", "compress"),
    without_kernels("replace", "lowrank_layers", sanitizer=True),
    without_kernels("optim_interop", "optim", sanitizer=True),
    without_kernels("optim_groups", "optim"),
    without_kernels("sequential", "program", sanitizer=True),
    without_kernels("fit", "program", sanitizer=True),
    without_kernels("callbacks", "program"),
    without_kernels("layers", "program", sanitizer=True),
    without_kernels("summary", "program"),
    without_kernels("tuning", "tuning"),
    without_kernels("noise", "tuning"),
    without_kernels("extending", "extending"),
    without_kernels("build"),
    without_kernels("files", "files", sanitizer=True),
    without_kernels("earlier_files", "files"),
    without_kernels("torch_models"),
    without_kernels("onnx", "onnx"),
    without_kernels("onnx_operators", "onnx"),
    without_kernels("estimators", "estimators"),
    without_kernels("estimators_mlp", "estimators"),
    without_kernels("estimators_glm", "estimators"),
    without_kernels("lowrank_decompositions", "lowrank"),
    without_kernels("data", "cli"),
    without_kernels("tables", "cli"),
    without_kernels("labels"),
    without_kernels("cli", "cli"),
    without_kernels("cli_tables", "cli"),
    without_kernels("cli_compress", "cli"),
    without_kernels("limits", "performance", MACHINE),
    without_kernels("bench", "performance", MACHINE),
    without_kernels("dashboard", "dashboard", MACHINE),
    # ---------------------------------------------------------------- around the process
    without_kernels("threads", "threads", PROCESS),
    without_kernels("parallel", "parallel", PROCESS),
    without_kernels("scaling", "scaling"),
    without_kernels("fork", "threads", PROCESS),
    without_kernels("memory", TESTS_PAGE, PROCESS),
    without_kernels("soak", TESTS_PAGE, PROCESS),
    without_kernels("levels", TESTS_PAGE, PROCESS),
    without_kernels("processors", "tuning", PROCESS),
    # ---------------------------------------------------------------- around the tests
    without_kernels("reference", TESTS_PAGE),
    without_kernels("package", TESTS_PAGE, PROCESS),
    without_kernels("stubs", TESTS_PAGE, PROCESS),
    without_kernels("docs", TESTS_PAGE),
    without_kernels("topics", TESTS_PAGE),
)


def taking_part(what):
    """The topics that take part in it, a field of Topic."""
    return [topic for topic in TOPICS if getattr(topic, what)]


def files(what):
    """Their files of tests."""
    return [f"tests/test_{topic.name}.py" for topic in taking_part(what)]
