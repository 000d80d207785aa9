"""Networks and generalized linear models as scikit-learn's estimators, for its pipelines and searches.

What computes is `nn` and `newton`; here is what scikit-learn asks of an estimator, and its validation of data. It is
imported with this package only, which `import fastopt` does not load.
"""

try:
    from sklearn.utils.validation import validate_data  # noqa: F401  (which versions before 1.6 lack)
except ImportError as error:
    raise ImportError(
        f"fastopt.estimators needs scikit-learn 1.6 or later ({error}); pip install fastopt[sklearn]"
    ) from error

from fastopt.estimators.glm import GLMClassifier, GLMRegressor
from fastopt.estimators.mlp_classifier import MLPClassifier
from fastopt.estimators.mlp_regressor import MLPRegressor

__all__ = ["GLMClassifier", "GLMRegressor", "MLPClassifier", "MLPRegressor"]
