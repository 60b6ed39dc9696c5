"""Other people's tools: callbacks for Lightning and the Hugging Face Trainer; trackers, which are told of a run.

    lightning, transformers             `SupervisorCallback`
    tensorboard, wandb, mlflow          `TensorBoardTracker`, `WandbTracker`, `MLflowTracker`
    alerts                              `Alerts`, to a webhook

None of them is imported by `trimtab` itself; each needs the package of its name, but for alerts, which need none. A
tracker is handed over as `trackers=[…]`, or given a run folder that is there already, by `export_run`. One's own is a
child of `Tracker`.
"""

from trimtab.integrations.tracking import export_run
from trimtab.journal import Tracker

__all__ = ["Tracker", "export_run"]
