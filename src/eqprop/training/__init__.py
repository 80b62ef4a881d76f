"""Training: the configuration of a run, its optimizer and its compiled loop.

Training is the fifth stage of the data flow, and the only one that knows devices and
epochs.
"""

from ._augmentation import (
    augmentation as augmentation,
    ImageAugmentation as ImageAugmentation,
)
from ._config import (
    Config as Config,
    config_from_json as config_from_json,
    config_to_json as config_to_json,
    load_config as load_config,
)
from ._diagnosis import (
    RunWarning as RunWarning,
    TrainingDiverged as TrainingDiverged,
)
from ._epoch_record import (
    ChunkRecord as ChunkRecord,
    EpochRecord as EpochRecord,
)
from ._fit import (
    check_program_inputs as check_program_inputs,
    Fit as Fit,
    fit as fit,
    make_trainer as make_trainer,
    Observer as Observer,
    run_epochs as run_epochs,
)
from ._loop import (
    evaluate as evaluate,
    Examples as Examples,
    Trainer as Trainer,
    TrainState as TrainState,
)
from ._measures import errors_of as errors_of, weight_names as weight_names
from ._models import (
    ACTIVATIONS as ACTIVATIONS,
    DiscreteHopfield as DiscreteHopfield,
    Hopfield as Hopfield,
    Leaky as Leaky,
    Model as Model,
    Prototypical as Prototypical,
    Toy as Toy,
    UserModel as UserModel,
    XieSeung as XieSeung,
)
from ._processes import WorkerLost as WorkerLost
from ._optimizer import Optimizer as Optimizer
from ._settings import Settings as Settings
from ._user_model import (
    load_user_model as load_user_model,
    split_path as split_path,
)
from ._writers import (
    AbstractWriter as AbstractWriter,
    check_writers as check_writers,
    WRITERS as WRITERS,
    Writers as Writers,
)
