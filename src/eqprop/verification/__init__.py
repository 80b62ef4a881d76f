"""The theorems, shown on any system: error processes, checks, tuning."""

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
from ._process import Process as Process
from ._processes import (
    bptt_process as bptt_process,
    ep_process as ep_process,
    rbp_process as rbp_process,
)
from ._tune import tune as tune
from ._tune_figure import Tuning as Tuning, TuningCurve as TuningCurve
from ._verification import Verification as Verification
from ._verify import verify as verify
