"""What people who know other frameworks type for a key, and what the key is called here. Imports nothing."""

from __future__ import annotations

__all__ = ["same_meaning"]

# The name here, or the end of its full key: what people type for it, without "_" and "-", in lower case.
_TYPED = {
    "lr": "learningrate baselr initiallr initlr lr0 maxlr eta",
    "base_lr": "learningrate lr initiallr initlr lr0",
    "max_iter": (
        "epochs numepochs maxepochs nepochs epoch iters numiters niters maxiters iterations numiterations maxiterations "
        "steps maxsteps numsteps totalsteps totaliters trainsteps"
    ),
    "total_batch_size": "batchsize bs batch trainbatchsize imsperbatch samplespergpu batchsizepergpu",
    "ims_per_batch": "batchsize bs batch trainbatchsize totalbatchsize",
    "weight_decay": "wd l2 decay weightdecay l2reg",
    "betas": "momentum beta beta1 beta2",
    "momentum": "beta mom",
    "num_workers": "workers nworkers numworker numprocs dataloadernumworkers",
    "output_dir": "outdir outputdir output outputpath out savedir workdir logdir rundir resultdir",
    "init_checkpoint": "weights checkpoint ckpt pretrained initweights pretrain loadfrom resumefrom weightspath ckptpath modelweights",
    "weights": "initcheckpoint checkpoint ckpt pretrained initweights loadfrom",
    "eval_period": "evalinterval valinterval valperiod evalfreq evalevery evalsteps testperiod testinterval checkvaleverynepoch",
    "log_period": "loginterval printfreq logfreq logevery logsteps logeverynsteps printperiod printinterval",
    "checkpointer.period": "saveinterval checkpointperiod savefreq saveperiod savesteps ckptinterval checkpointinterval",
    "checkpoint_period": "saveinterval savefreq saveperiod savesteps ckptinterval checkpointinterval",
    "max_to_keep": "savetotallimit savetopk keep maxkeep checkpointstokeep",
    "clip_grad.max_norm": "maxnorm gradclip clipgradnorm gradientclipval maxgradnorm clipnorm gradclipnorm",
    "clip_grad": "maxnorm gradclip clipgradnorm gradientclipval maxgradnorm clipnorm clipgradients",
    "amp.enabled": "amp fp16 bf16 useamp mixedprecision halfprecision",
    "amp.precision": "precision ampdtype amptype",
    "accumulation.num_batches": "accumulate gradaccum accumgrad accumulategradbatches gradientaccumulationsteps gradaccumsteps",
    "warmup_length": "warmup warmupiters warmupsteps warmupepochs warmupratio",
    "lr_multiplier": "scheduler lrscheduler schedule lrschedule",
    "seed": "randomseed manualseed rngseed",
    "device": "gpu cuda accelerator",
    "val_metric": "metric monitor bestmetric",
    "wall_time_s": "walltime maxtime timelimit",
    "deterministic": "cudnndeterministic reproducible",
    "root": "dataroot datadir datapath datasetroot",
    "optimizer": "optim opt",
    "model": "net network detector",
    "max_detections": "detectionsperimage topk maxdets",
    "score_threshold": "scorethresh scorethreshtest confthreshold conf confidence",
    "nms_threshold": "nmsthresh nmsthreshtest iouthreshold nms",
}

_NAMES: dict[str, list[str]] = {}
for _name, _typed in _TYPED.items():
    for _each in _typed.split():
        _NAMES.setdefault(_each, []).append(_name)


def same_meaning(name: str) -> list[str]:
    """What a name may be called here, as the ends of full keys; empty if it is not known."""
    return _NAMES.get(name.lower().replace("_", "").replace("-", ""), [])
