"""Names from other frameworks for keys of a config. Imports nothing."""

from __future__ import annotations

__all__ = ["option_of", "same_meaning"]

# The name here, or the end of its full key: what people type for it, without "_" and "-", in lower case.
_TYPED = {
    "lr": "learningrate baselr initiallr initlr lr0 maxlr eta eta0 alpha rate lrrate steplength",
    "base_lr": "learningrate lr initiallr initlr lr0",
    "max_iter": (
        "epochs numepochs maxepochs nepochs epoch iters numiters niters maxiters iterations numiterations maxiterations "
        "steps maxsteps numsteps totalsteps totaliters trainsteps itr niter iter numtrainepochs numtrainsteps trainiters"
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
    "eval_period": "validateevery evaluateevery valevery valfreq valcheckinterval evalinterval valinterval valperiod evalfreq evalevery evalsteps testperiod testinterval checkvaleverynepoch",
    "log_period": "loginterval printfreq logfreq logevery logsteps logeverynsteps printperiod printinterval",
    "checkpointer.period": "saveevery ckptevery ckptperiod checkpointevery checkpointfreq saveinterval checkpointperiod savefreq saveperiod savesteps ckptinterval checkpointinterval",
    "checkpoint_period": "saveevery ckptevery ckptperiod saveinterval savefreq saveperiod savesteps ckptinterval checkpointinterval",
    "max_to_keep": "savetotallimit savetopk keep maxkeep checkpointstokeep",
    "clip_grad.max_norm": "clip gradientclipnorm gradientclip clipvalue maxnorm gradclip clipgradnorm gradientclipval maxgradnorm clipnorm gradclipnorm",
    "clip_grad": "maxnorm gradclip clipgradnorm gradientclipval maxgradnorm clipnorm clipgradients",
    "amp.enabled": "half autocast amp fp16 bf16 useamp mixedprecision halfprecision",
    "amp.precision": "precision ampdtype amptype",
    "accumulation.num_batches": "accumiter accumsteps accumulationsteps accumulate gradaccum accumgrad accumulategradbatches gradientaccumulationsteps gradaccumsteps",
    "warmup_length": "warmup warmupiters warmupsteps warmupepochs warmupratio",
    "lr_multiplier": "lrpolicy lrdecay scheduler lrscheduler schedule lrschedule",
    "seed": "randomseed manualseed rngseed rng randomstate",
    "device": "gpu cuda accelerator deviceid gpuid",
    "val_metric": "metric monitor bestmetric",
    "wall_time_s": "walltime maxtime timelimit",
    "deterministic": "cudnndeterministic reproducible",
    "num_frames": "cliplength cliplen seqlen sequencelength nframes framesperclip",
    "root": "dataroot datadir datapath datasetroot",
    "optimizer": "optim opt",
    "model": "net network detector",
    "max_detections": "detectionsperimage topk maxdets",
    "score_threshold": "scorethresh scorethreshtest confthreshold conf confidence",
    "nms_threshold": "nmsthresh nmsthreshtest iouthreshold nms",
}

# What people set as a key, and what is an option of the launcher.
_OPTIONS = {
    "--resume": "resume autoresume continue",
    "--eval-only": "evalonly evaluate testonly evaluateonly",
    "--num-gpus": "numgpus ngpus gpus ngpu nprocpernode nprocs numprocesses worldsize",
    "--num-machines": "nummachines nnodes numnodes",
    "--machine-rank": "machinerank noderank",
    "--dist-url": "disturl masteraddr initmethod",
    "--config-file": "configfile config cfg configpath",
    "--check": "dryrun check",
    "--quick": "quick fastdevrun debug smoketest",
}
_OPTION_OF = {typed: option for option, all_typed in _OPTIONS.items() for typed in all_typed.split()}

_NAMES: dict[str, list[str]] = {}
for _name, _typed in _TYPED.items():
    for _each in _typed.split():
        _NAMES.setdefault(_each, []).append(_name)


def same_meaning(name: str) -> list[str]:
    """What a name may be called here, as the ends of full keys; empty if it is not known."""
    return _NAMES.get(_squeezed(name), [])


def option_of(name: str) -> str:
    """The launcher's option that does what a key of this name is meant to do; "" if there is none."""
    return _OPTION_OF.get(_squeezed(name), "")


def _squeezed(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
