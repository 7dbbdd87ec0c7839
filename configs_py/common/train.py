"""The run: everything but model, data and optimizer."""

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import LazyCall as L
from ultravid.config import LazyPartial, Node, ref
from ultravid.engine import SimpleTrainer, hooks, prepare_model
from ultravid.engine.steps import Accumulation, MixedPrecision, NonfinitePolicy
from ultravid.evaluation import inference_on_dataset
from ultravid.solver import LRMultiplier
from ultravid.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter

train = Node(
    output_dir="./outputs/run",  # folder of the run: checkpoints, log, metrics, evaluations
    init_checkpoint="",  # weights to start from, or to evaluate with --eval-only
    max_iter=10000,
    amp=dict(  # mixed precision: the forward pass computes in fewer bits, the weights stay float32
        enabled=False,
        precision="bfloat16",
    ),
    ddp=dict(
        broadcast_buffers=False,  # whether each step copies buffers, as the statistics of batch norm, from rank 0 to all
        find_unused_parameters=False,  # set it for a model with parameters that get no gradient in some steps
        fp16_compression=False,  # whether processes exchange gradients as float16
    ),
    checkpointer=dict(  # when checkpoints are written, and how many are kept
        period=1000,
        max_to_keep=5,
        keep_best=1,  # number of checkpoints that are kept for their metric, trainer.hooks.best.val_metric
        background=True,  # a thread writes the file; training waits only for the copy in memory
        on_error="stop",  # when a file can't be written, as on a full disk: "continue" trains on without the checkpoint
    ),
    eval_period=1000,
    log_period=20,  # iterations from one record in the log and in metrics.json to the next
    device="auto",  # CUDA if there is a device, else the CPU
    num_threads="auto",  # a number, or "auto"; on the CPU that is the cores, or a resumed run's own number; an evaluation of a small model takes 1
    hang_timeout_s=1800,  # a process that finishes no iteration for so long logs its stack
    wall_time_s=None,  # seconds that a job may take: then it saves a checkpoint and stops; --resume continues
    seed=0,  # of all random numbers of the run; -1 draws a seed, which the log states
    deterministic=False,  # on CUDA: slower, and the same bits each time, as on the CPU anyway
)

# The plain module is `model`; this is the one on its device, wrapped in DDP if there are several processes.
prepared_model = L(prepare_model)(model=ref("model"), device=ref("train.device"), ddp=ref("train.ddp"))

checkpointer = L(DetectionCheckpointer)(
    model=ref("model"),
    save_dir=ref("train.output_dir"),
    background=ref("train.checkpointer.background"),
    on_error=ref("train.checkpointer.on_error"),
    partial_init=False,  # whether train.init_checkpoint may fit a part of the model; the rest starts from scratch
)

trainer = L(SimpleTrainer)(
    model=ref("prepared_model"),
    data_loader=ref("dataloader.train"),
    optimizer=ref("optimizer"),
    checkpointer=ref("checkpointer"),
    init_checkpoint=ref("train.init_checkpoint"),
    max_iter=ref("train.max_iter"),
    seed=ref("train.seed"),
    clip_grad=None,
    precision=L(MixedPrecision)(enabled=ref("train.amp.enabled"), dtype=ref("train.amp.precision")),
    accumulation=L(Accumulation)(num_batches=1),  # batches whose mean gradient makes one step
    nonfinite=L(NonfinitePolicy)(max_skipped=0, dump_dir=ref("train.output_dir")),
    hooks=dict(
        progress=L(hooks.ProgressBar)(),  # on a terminal only
        record=L(hooks.RunRecord)(
            output_dir=ref("train.output_dir"),
            seed=ref("train.seed"),
            datasets=dict(
                train=ref("dataloader.train"),  # whose videos the record describes
                test=ref("dataloader.test"),  # likewise
            ),
        ),
        timer=L(hooks.IterationTimer)(),
        lr=L(hooks.LRScheduler)(
            optimizer=ref("optimizer"),
            scheduler=L(LRMultiplier)(
                optimizer=ref("optimizer"),
                multiplier=ref("lr_multiplier"),
                max_iter=ref("train.max_iter"),
            ),
            metric=None,  # what torch's ReduceLROnPlateau gets after each evaluation, as "AP50"
            period=1,  # iterations between two steps of the scheduler: those of an epoch, for one that counts epochs
        ),
        ema=None,  # averaged weights: common/hooks.py:EMA
        eval=L(hooks.EvalHook)(
            eval_period=ref("train.eval_period"),
            eval_function=LazyPartial(inference_on_dataset)(
                model=ref("model"),
                data_loader=ref("dataloader.test"),
                evaluator=ref("dataloader.evaluator"),
            ),
        ),
        best=L(hooks.BestCheckpointer)(
            eval_period=ref("train.eval_period"),
            checkpointer=ref("checkpointer"),
            val_metric="AP50",
            max_to_keep=ref("train.checkpointer.keep_best"),
        ),
        ledger=L(hooks.TimeBreakdown)(period=ref("train.log_period")),
        writer=L(hooks.PeriodicWriter)(
            writers=dict(
                log=L(CommonMetricPrinter)(max_iter=ref("train.max_iter")),
                json=L(JSONWriter)(json_file="${train.output_dir}/metrics.json"),
                tensorboard=L(TensorboardXWriter)(log_dir=ref("train.output_dir")),
            ),
            period=ref("train.log_period"),
            on_error=ref("train.checkpointer.on_error"),
        ),
        checkpoint=L(hooks.PeriodicCheckpointer)(
            checkpointer=ref("checkpointer"),
            period=ref("train.checkpointer.period"),
            max_to_keep=ref("train.checkpointer.max_to_keep"),
        ),
        stop=L(hooks.StopOnSignal)(checkpointer=ref("checkpointer"), wall_time_s=ref("train.wall_time_s")),
        hang=L(hooks.Watchdog)(timeout_s=ref("train.hang_timeout_s")),
    ),
)
