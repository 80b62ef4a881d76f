"""The theorems on any system: error processes, `verify`, `tune`, continuous time.

It stands above the estimators, which it measures, and below runs and papers.
"""

from ._flow import (
    ep_flow as ep_flow,
    flow as flow,
    projected_cost as projected_cost,
    rbp_flow as rbp_flow,
    truncation as truncation,
)
from ._flow_figure import flow_figure as flow_figure
from ._metrics import (
    agreement as agreement,
    order_in_beta as order_in_beta,
    process_rmse as process_rmse,
)
from ._processes import (
    Process as Process,
    bptt_process as bptt_process,
    ep_process as ep_process,
    rbp_process as rbp_process,
)
from ._tune import tune as tune
from ._records import TuningCurve as TuningCurve
from ._tuning import Tuning as Tuning
from ._verification import Verification as Verification
from ._verify import verify as verify
