"""What `test_bad_input` runs: a wrong command line, what it must say, and the files it brings."""

from d2ft_sched.plan.plan_file import VERSION

CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e12, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
  - {name: b, compute_flops_per_s: 5e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
network:
  kind: explicit
  links: [{source: a, target: b, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}]
"""
LINKS = "[{source: a, target: b, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}]"
STUDY = """
name: small
data: {name: "imagefolder:pictures", num_train: 12, num_test: 4, image_size: 32, num_classes: 2}
model: {name: vit_tiny_patch16_224}
minibatch: {num_microbatches: 3, microbatch_samples: 2}
training: {num_epochs: 1}
seeds: [0]
clusters: [cluster.yaml]
budgets: [{compute: 0.6}]
methods: [{name: dense, kind: dense}]
"""
GOOD = {
    "cluster.yaml": CLUSTER,
    "three.yaml": CLUSTER.replace("- {name: b,", "- {name: b, count: 2,").replace(
        "kind: explicit\n  links: " + LINKS,
        "kind: full_mesh\n  bandwidth_bytes_per_s: 1e9\n  latency_s: 1e-5",
    ),
    "vast.yaml": """
name: vast
devices:
  - {name: a, compute_flops_per_s: 1e12, memory_bytes: 1e17, memory_bandwidth_bytes_per_s: 1e11}
""",
    "study.yaml": STUDY,
    "a-file": "not a folder\n",
}
SMALL = "--model vit_tiny_patch16_224 --image-size 32 --microbatch-size 2"
PLAN = f"plan --cluster cluster.yaml {SMALL}"
SWEEP = "sweep --cluster cluster.yaml --model vit_tiny_patch16_224 --image-size 32 --jobs 1"
COMPARE = f"compare --cluster cluster.yaml {SMALL}"
FINETUNE = "finetune plan.json --data imagefolder:pictures --epochs 1"
PROFILE = f"profile {SMALL} --repeats 1"
SCORES = "subnet,microbatch,forward_score,backward_score\n"

Row = tuple[str, str] | tuple[str, str, dict[str, str | bytes]]


def cluster(old: str, new: str) -> dict[str, str | bytes]:
    """A cluster file that is wrong in one place."""
    assert CLUSTER.count(old) == 1
    return {"bad.yaml": CLUSTER.replace(old, new)}


def study(old: str, new: str) -> dict[str, str | bytes]:
    """A study file that is wrong in one place."""
    assert STUDY.count(old) == 1
    return {"bad.yaml": STUDY.replace(old, new)}


BAD_CLUSTER = f"plan --cluster bad.yaml {SMALL}"
BAD_STUDY = "study bad.yaml --out out"
A = "name: a, compute_flops_per_s: 1e12, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11"

TABLE: dict[str, Row] = {
    # the command line itself
    "unknown command": ("plann", "no such command 'plann'"),
    "unknown option of all": ("--verbos", "no such option: --verbos"),
    "unknown option": (f"{PLAN} --solvr dp", "no such option: --solvr"),
    "option without value": ("simulate plan.json --jitter", "'--jitter' requires an argument"),
    "missing option": ("plan", "missing option '--cluster'"),
    "missing argument": ("finetune", "missing argument 'PLAN'"),
    "one argument too many": ("diff plan.json plan.json plan.json", "plan.json"),
    "no number": (f"{PLAN} --budget-compute much", "--budget-compute is 'much'"),
    "no whole number": (f"{PLAN} --seed 1.5", "--seed is '1.5'"),
    "seed below 0": (f"{PLAN} --seed -1", "--seed is '-1'"),
    "unknown choice": (f"{PLAN} --placement here", "--placement is 'here': it must be one of"),
    # options without effect beside the others
    "steps without jitter": ("simulate plan.json --num-steps 5", "--num-steps is given, but"),
    "tightness of a cluster": (f"{COMPARE} --tightness 0.5", "--tightness is given, but"),
    "waves of a sweep": (f"{SWEEP} --waves 6 --out out", "--waves is 6; it must be at most"),
    "coverage beyond a budget": (
        f"{PLAN} --placement balanced --budget-compute 0.01 --coverage 3 --out x.json",
        "a larger budget, a smaller coverage or more time",
    ),
    "weights that nobody has": (
        f"{FINETUNE} --weights none",
        "weights none: there is no such file",
    ),
    "budget of sizes": ("compare --sizes 10 --budget-comm 0.5", "--budget-comm is given, but"),
    "scores of a schedule": (f"{FINETUNE} --backward-score taylor", "--schedule per-minibatch"),
    "data without scores": (f"{PROFILE} --data mnist-subset", "it goes with --scores-out"),
    "model with an endless name": (
        f"plan --cluster cluster.yaml --model {'m' * 6000} --out p.json",
        "mmm",
    ),
    "data with an endless name": (
        f"finetune plan.json --data imagefolder:{'m' * 6000}",
        "mmm",
    ),
    "cluster with an endless name": (f"plan --cluster {'m' * 6000} {SMALL}", "mmm"),
    "weights with an endless name": (f"{FINETUNE} --weights {'m' * 6000}", "mmm"),
    # cluster files
    "no cluster file": (f"plan --cluster none.yaml {SMALL}", "none.yaml: cannot be read"),
    "cluster is a folder": (f"plan --cluster pictures {SMALL}", "pictures: cannot be read"),
    "cluster is empty": (BAD_CLUSTER, "bad.yaml: is empty", {"bad.yaml": ""}),
    "cluster is binary": (BAD_CLUSTER, "not UTF-8", {"bad.yaml": b"\xff\xfe\x00\x01"}),
    "cluster with a NUL": (BAD_CLUSTER, "is not YAML", {"bad.yaml": b"name: \x00"}),
    "cluster is a list": (BAD_CLUSTER, "must be a mapping", {"bad.yaml": "[1, 2]"}),
    "cluster is cut off": (BAD_CLUSTER, "is not YAML", {"bad.yaml": CLUSTER[:40]}),
    "cluster with a key twice": (
        BAD_CLUSTER,
        "'name' stands twice",
        {"bad.yaml": "name: x\n" + CLUSTER},
    ),
    "cluster with a list as key": (BAD_CLUSTER, "bad.yaml", {"bad.yaml": "? [a, b]\n: 1\n"}),
    "cluster with an unknown tag": (
        BAD_CLUSTER,
        "is not YAML",
        {"bad.yaml": "name: !!python/object:os.system x\n"},
    ),
    "cluster nested without end": (BAD_CLUSTER, "bad.yaml", {"bad.yaml": "[" * 5000}),
    "cluster without a name": (BAD_CLUSTER, "name is missing", cluster("name: two\n", "")),
    "cluster without devices": (
        BAD_CLUSTER,
        "devices",
        {"bad.yaml": "name: x\ndevices: []\nnetwork: {kind: explicit, links: []}\n"},
    ),
    "device that is a text": (BAD_CLUSTER, "devices[0]", cluster(f"{{{A}}}", "a")),
    "device without speed": (
        BAD_CLUSTER,
        "compute_flops_per_s",
        cluster("compute_flops_per_s: 1e12, ", ""),
    ),
    "field of a device misspelt": (
        BAD_CLUSTER,
        "did you mean memory_bytes?",
        cluster(
            "a, compute_flops_per_s: 1e12, memory_bytes",
            "a, compute_flops_per_s: 1e12, memory_byts",
        ),
    ),
    "unknown preset": (BAD_CLUSTER, "rtx-9999", cluster(A, "name: a, preset: rtx-9999")),
    "device file not there": (BAD_CLUSTER, "none.yaml", cluster(A, "name: a, file: none.yaml")),
    "device without a name": (BAD_CLUSTER, "name is ''", cluster("name: a", "name: ''")),
    "device named as what-ifs write": (
        BAD_CLUSTER,
        "neither '='",
        cluster("name: a", "name: 'a=b'"),
    ),
    "speed of NaN": (BAD_CLUSTER, "must be a finite number", cluster("1e12", ".nan")),
    "speed below 0": (BAD_CLUSTER, "must be above 0", cluster("1e12", "-1e12")),
    "speed in bytes": (BAD_CLUSTER, "is a unit of bytes", cluster("1e12", "12 GB")),
    "speed without end": (BAD_CLUSTER, "compute_flops_per_s", cluster("1e12", "9" * 400)),
    "count of no devices": (BAD_CLUSTER, "count", cluster("{name: a,", "{name: a, count: 0,")),
    "count without end": (
        BAD_CLUSTER,
        "count",
        cluster("{name: a,", "{name: a, count: 100000000000,"),
    ),
    "two devices of one name": (BAD_CLUSTER, "names must differ", cluster("name: b", "name: a")),
    "memory that cannot hold the model": (
        BAD_CLUSTER,
        "of memory",
        {"bad.yaml": CLUSTER.replace("memory_bytes: 8 GB", "memory_bytes: 10 MB")},
    ),
    "bandwidth below 0": (BAD_CLUSTER, "bandwidth_bytes_per_s", cluster("1e9,", "-1e9,")),
    "ambiguous unit": (BAD_CLUSTER, "'Gb/s'", cluster("1e9,", "10 Gb/s,")),
    "latency that is a yes": (BAD_CLUSTER, "latency_s", cluster("1e-5", "yes")),
    "unknown network": (BAD_CLUSTER, "'ring-of-fire'", cluster("explicit", "ring-of-fire")),
    "link to nobody": (BAD_CLUSTER, "'c'", cluster("target: b", "target: c")),
    "link to itself": (BAD_CLUSTER, "a", cluster("target: b", "target: a")),
    "device that nobody reaches": (BAD_CLUSTER, "cannot be reached", cluster(LINKS, "[]")),
    # models, sizes, budgets
    "unknown model": (f"{PLAN} --model vit_huge_99", "'vit_huge_99'"),
    "model file not there": (f"{PLAN} --model none.yaml", "none.yaml"),
    "model file of nonsense": (f"{PLAN} --model bad.json", "bad.json", {"bad.json": '{"a": '}),
    "image size no multiple": (f"{PLAN} --image-size 33", "33 is not a multiple"),
    "image size of 0": (f"{PLAN} --image-size 0", "--image-size is '0'"),
    "no classes": (f"{PLAN} --num-classes 0", "--num-classes is '0'"),
    "heads not divided": (f"{PLAN} --heads-per-subnet 2", "must divide the 3 heads"),
    "heads not numbers": (f"{PLAN} --heads-per-subnet x", "--heads-per-subnet is 'x'"),
    "heads of nothing": (f"{PLAN} --heads-per-subnet ''", "--heads-per-subnet is empty"),
    "heads below 0": (f"{PLAN} --heads-per-subnet -1", "-1"),
    "heads that are too many": (f"{PLAN} --heads-per-subnet 1,1,2", "1, 1, 2"),
    "too many waves": (f"{PLAN} --placement balanced --waves 9", "number of waves is 9"),
    "waves of ways": (f"{PLAN} --waves 2", "--waves is given, but ways are searched"),
    "patterns of ways": (f"{PLAN} --patterns 1", "--patterns is given, but ways are searched"),
    "no patterns": (
        f"{PLAN} --placement balanced --patterns 0",
        "--patterns is '0'; it must be a number from 1, any, or auto",
    ),
    "patterns of no word that is known": (
        f"{PLAN} --placement balanced --patterns few",
        "--patterns is 'few'; it must be a number from 1, any, or auto",
    ),
    "patterns that pay beside a step time": (
        f"{PLAN} --placement balanced --patterns auto --target-step-time 0.5x",
        "--patterns is auto beside --target-step-time",
    ),
    "coverage of ways": (f"{PLAN} --coverage 1", "--coverage is given, but ways are searched"),
    "unknown way": (f"{PLAN} --way sideways", "--way is 'sideways': it must be one of"),
    "way beside a placement": (
        f"{PLAN} --placement balanced --way data-parallel",
        "--way is data-parallel beside --placement",
    ),
    "rest of a placement": (f"{PLAN} --placement balanced --resting turns", "nothing rests"),
    "rest within the whole budget": (f"{PLAN} --resting turns", "--resting is given, but"),
    "budget of nothing": (f"{PLAN} --budget-compute 0", "compute budget is 0"),
    "budget of NaN": (f"{PLAN} --budget-compute nan", "compute budget is nan"),
    "budget above one": (f"{PLAN} --budget-comm 1.5", "communication budget is 1.5"),
    "target of words": (f"{PLAN} --target-step-time soon", "'soon'"),
    "target of nothing": (f"{PLAN} --target-step-time 0x", "0x"),
    "target of NaN": (f"{PLAN} --target-step-time nan", "nan"),
    "target out of reach": (f"{PLAN} --target-step-time 0.000001", "1e-06"),
    "target and budget": (f"{PLAN} --target-step-time 0.5x --budget-compute 0.5", "leave"),
    "coverage of more than there is": (
        f"{PLAN} --placement balanced --coverage 99",
        "the coverage is 99",
    ),
    "unknown solver": (f"{PLAN} --solver magic", "'magic' is unknown"),
    "unknown solver of a placement": (
        f"{PLAN} --placement balanced --solver magic",
        "'magic' is unknown",
    ),
    "solver that lacks its option": (f"{PLAN} --solver magnitude", "needs the option 'magnitude'"),
    "time limit of NaN": (f"{PLAN} --solver mip --time-limit nan", "time-limit"),
    # scores
    "no scores": (f"{PLAN} --scores none.csv", "none.csv"),
    "scores without a header": (f"{PLAN} --scores bad.csv", "bad.csv", {"bad.csv": "1,2,3\n"}),
    "scores that are empty": (f"{PLAN} --scores bad.csv", "bad.csv", {"bad.csv": ""}),
    "scores that are binary": (f"{PLAN} --scores bad.csv", "bad.csv", {"bad.csv": b"\xff\x00"}),
    "scores of another size": (
        f"{PLAN} --scores bad.csv",
        "has no line",
        {"bad.csv": SCORES + "0,0,1,1\n"},
    ),
    "scores of a subnet that is not": (
        f"{PLAN} --scores bad.csv",
        "99",
        {"bad.csv": SCORES + "99,0,1,1\n"},
    ),
    "scores with a word": (
        f"{PLAN} --scores bad.csv",
        "bad.csv",
        {"bad.csv": SCORES + "0,0,high,1\n"},
    ),
    "scores with NaN": (
        f"{PLAN} --scores bad.csv",
        "backward score of subnet 7, micro-batch 0 is nan",
        {
            "bad.csv": SCORES
            + "".join(f"{s},{i},1,{'nan' if s == 7 else 1}\n" for s in range(36) for i in range(5))
        },
    ),
    # where results go
    "plan into a folder that is a file": (f"{PLAN} --out a-file/plan.json", "a-file"),
    "plan over a folder": (f"{PLAN} --out pictures", "pictures"),
    "table into a folder that is a file": (f"{COMPARE} --out a-file/c.csv", "a-file"),
    "trace over a folder": ("simulate plan.json --out p.json --trace pictures", "pictures"),
    "device file over a folder": (f"{PROFILE} --out pictures", "pictures"),
    "shape over a folder": (f"{PROFILE} --out d.yaml --shape-out pictures", "pictures"),
    "training over another plan": (
        f"{FINETUNE} --out mine",
        "mine/plan.json: is another plan",
        {"mine/plan.json": "{}"},
    ),
    "training over what is no text": (
        f"{FINETUNE} --out mine",
        "mine/plan.json: is another plan",
        {"mine/plan.json": b"\xff"},
    ),
    "training over a folder of that name": (
        f"{FINETUNE} --out own",
        "own/plan.json: is another plan",
        {"own/plan.json/a": ""},
    ),
    "training into a file": (f"{FINETUNE} --out a-file", "a-file"),
    "checkpoints into a file": (f"{FINETUNE} --out o --checkpoint-dir a-file", "a-file"),
    "study into a file": ("study study.yaml --out a-file", "a-file"),
    "validation into a file": (f"validate {SMALL} --out a-file", "a-file"),
    "demo into a file": (f"demo {SMALL} --data imagefolder:pictures --out a-file/x", "a-file"),
    # compare
    "compare nothing": ("compare", "either --cluster FILE or --sizes"),
    "compare two ways": (f"{COMPARE} --sizes 10", "either --cluster FILE or --sizes"),
    "compare an unknown solver": (f"{COMPARE} --solvers dp,magic", "magic"),
    "compare a solver without a name": (f"{COMPARE} --solvers dp,", "''"),
    "sizes in words": ("compare --sizes ten", "--sizes is 'ten'"),
    "sizes of 0": ("compare --sizes 0 --solvers dp", "--sizes is '0'"),
    "sizes with a fraction": ("compare --sizes 1.5 --solvers dp", "--sizes"),
    "tightness of NaN": ("compare --sizes 2 --solvers dp --tightness nan", "--tightness is 'nan'"),
    "tightness above 1": ("compare --sizes 2 --solvers dp --tightness 2", "a tightness is 2"),
    # sweep
    "sweep of nothing": ("sweep", "'--cluster'"),
    "axis in words": (f"{SWEEP} --budget-compute 0.4,x", "--budget-compute is '0.4,x'"),
    "axis backwards": (f"{SWEEP} --budget-compute 1:0.4:0.1", "it must go up"),
    "axis without a step": (f"{SWEEP} --budget-compute 0.1:0.4", "must be start:stop:step"),
    "axis without end": (f"{SWEEP} --scale-bandwidth 0:1:1e-9", "at most 10000"),
    "axis with a budget of 0": (f"{SWEEP} --budget-comm 0,1", "communication budget is 0"),
    "axis with NaN": (f"{SWEEP} --budget-memory nan", "--budget-memory is 'nan'"),
    "axis with an unknown solver": (f"{SWEEP} --solvers dp,best", "--solvers has 'best'"),
    "axis with a solver of weights": (f"{SWEEP} --solvers magnitude", "needs magnitude"),
    "axis with half a micro-batch": (f"{SWEEP} --microbatches 2.5", "--microbatches is '2.5'"),
    "more micro-batches than samples": (f"{SWEEP} --minibatch-size 3", "5 micro-batches need"),
    "axis with unfit heads": (f"{SWEEP} --heads-per-subnet 2", "must divide the 3 heads"),
    "axis with a factor of 0": (f"{SWEEP} --scale-bandwidth 0", "bandwidth is scaled by 0"),
    "cluster twice": (f"{SWEEP} --cluster cluster.yaml", "two clusters are called 'two'"),
    "table of another kind": (f"{SWEEP} --format xls", "--format has 'xls'"),
    "scores of several sizes": (
        f"{SWEEP} --microbatches 2,3 --scores s.csv",
        "--scores s.csv is of one number of micro-batches",
    ),
    "sweep into a file": (f"{SWEEP} --out a-file", "a-file"),
    # plot
    "unknown picture": ("plot portrait plan.json", "'portrait'"),
    "picture of no table": ("plot tradeoff none.csv", "none.csv: cannot be read"),
    "picture of another table": ("plot tradeoff cluster.yaml", "cluster.yaml"),
    "picture of no plan": ("plot topology none.json", "none.json: cannot be read"),
    "picture of another kind": ("plot schedule plan.json --out x.gif", "a picture ends in .png"),
    "scores without a plan": ("plot scores s.csv", "scores needs --plan"),
    "rows of a plan": ("plot schedule plan.json --where a=b", "--where goes with"),
    "picture into a file": ("plot schedule plan.json --out a-file/x.png", "a-file"),
    # plan files
    "no plan": ("simulate none.json", "none.json: cannot be read"),
    "output is the input": ("simulate plan.json --out plan.json", "--out is plan.json, and so is"),
    "output is the cluster": (
        "plan --cluster cluster.yaml --model cluster.yaml --out cluster.yaml",
        "--out is cluster.yaml, and so is --cluster",
    ),
    "one output twice": (
        "simulate plan.json --out new.json --timeline new.json",
        "--out is new.json, and so is --timeline",
    ),
    "output is a device": ("simulate plan.json --out /dev/null", "/dev/null: cannot be written"),
    "plan is a folder": ("simulate pictures", "pictures: cannot be read"),
    "plan that is no JSON": ("simulate bad.json", "is damaged", {"bad.json": '{"format": '}),
    "plan that is binary": ("diff plan.json bad.json", "bad.json", {"bad.json": b"\xff\x00"}),
    "plan of another kind": ("simulate bad.json", "is not a plan file", {"bad.json": "{}"}),
    "plan that is a list": ("simulate bad.json", "is not a plan file", {"bad.json": "[]"}),
    "plan nested without end": ("simulate bad.json", "bad.json", {"bad.json": "[" * 5000}),
    "newer plan": (
        "finetune bad.json",
        "is a plan of version 99",
        {"bad.json": '{"format": "d2ft-plan", "version": 99}'},
    ),
    "plan of nothing": (
        "simulate bad.json",
        "is damaged",
        {"bad.json": f'{{"format": "d2ft-plan", "version": {VERSION}}}'},
    ),
    "plans of two models": ("diff plan.json other.json", "different models"),
    # simulate
    "another number of devices": ("simulate plan.json --cluster three.yaml", "has 3 devices"),
    "factor of nothing": ("simulate plan.json --scale-bandwidth 0", "0"),
    "factor in words": ("simulate plan.json --scale-compute a=fast", "fast"),
    "factor of NaN": ("simulate plan.json --scale-latency nan", "nan"),
    "factor of nobody": ("simulate plan.json --scale-compute z=2", "z"),
    "device to drop that is not": ("simulate plan.json --drop-device z", "z"),
    "nothing left": ("simulate plan.json --drop-device a --drop-device b", "device"),
    "scores for nothing": ("simulate plan.json --scores none.csv", "goes with --drop-device"),
    "jitter below 0": ("simulate plan.json --jitter -1", "jitter"),
    "jitter of NaN": ("simulate plan.json --jitter nan", "jitter"),
    "straggler in words": ("simulate plan.json --straggler often", "straggler"),
    "straggler more often than always": ("simulate plan.json --straggler 2:3", "straggler"),
    "no steps": ("simulate plan.json --num-steps 0", "--num-steps is '0'"),
    # profile, validate, testbed
    "model that timm lacks": ("profile --model vit_nano", "'vit_nano' is not a model of timm"),
    "model that cannot be cut": ("profile --model resnet18 --image-size 32", "resnet18"),
    "more samples than memory holds": (
        f"{PROFILE} --image-size 224 --microbatch-size 20000",
        "samples of vit_tiny_patch16_224 take",
    ),
    "validation of more samples than memory holds": (
        f"validate {SMALL} --image-size 224 --microbatch-size 20000",
        "samples of vit_tiny_patch16_224 take",
    ),
    "validation on a device of more samples than memory holds": (
        f"validate --cluster vast.yaml {SMALL} --image-size 224 --microbatch-size 20000",
        "samples of vit_tiny_patch16_224 take",
    ),
    "validation of a plan of more samples than memory holds": (
        "validate vast.json",
        "vast.json: 100,000 samples of vit_tiny_patch16_224 take",
    ),
    "endless repetition": (f"{PROFILE} --repeats 10001", "--repeats is '10001'"),
    "no repetition": (f"{PROFILE} --repeats 0", "--repeats is '0'"),
    "unknown device": (f"{PROFILE} --device tpu", "device is 'tpu'"),
    "weights and weights": (f"{PROFILE} --weights w.safetensors --pretrained", "choose one"),
    "scores of data that is not": (
        f"{PROFILE} --scores-out s.csv --data no-such-data",
        "no-such-data",
    ),
    "network of one rank": (f"{PROFILE} --cluster-out c.yaml", "this job has one"),
    "cluster and device file": (
        f"{PROFILE} --cluster-out c.yaml --out d.yaml",
        "--out is of one device; leave it out with --cluster-out",
    ),
    "cluster and scores": (f"{PROFILE} --cluster-out c.yaml --scores-out s.csv", "--scores-out"),
    "validation of a cluster that is not": (f"validate --cluster none.yaml {SMALL}", "none.yaml"),
    "validation on fewer ranks": (f"validate --cluster cluster.yaml {SMALL}", "2 devices"),
    "validation with odd precision": (
        f"validate {SMALL} --precision fp8",
        "--precision is 'fp8': it must be one of",
    ),
    "validation of too many waves": (f"validate {SMALL} --waves 9", "waves"),
    "testbed of nothing": ("testbed --cluster cluster.yaml", "has nothing to do"),
    "testbed of no cluster": ("testbed --cluster none.yaml -- true", "none.yaml"),
    "testbed with more than a core": (
        "testbed --cluster cluster.yaml --cores-per-unit 2 -- true",
        "cores",
    ),
    "tokens for pictures": (f"{PLAN} --num-tokens 8 --out p.json", "reads images"),
    "pixels for tokens": (
        "plan --cluster cluster.yaml --model minilm-l6 --image-size 32 --out p.json",
        "reads tokens, and the image size is 32",
    ),
    "more tokens than positions": (
        "plan --cluster cluster.yaml --model minilm-l6 --num-tokens 600 --out p.json",
        "the number of tokens is 600; minilm-l6 has positions for 1 to 512",
    ),
    "decoder without a configuration": (
        "plan --cluster cluster.yaml --model none/config.json --out p.json",
        "none/config.json: cannot be read",
    ),
    "decoder of another architecture": (
        "plan --cluster cluster.yaml --model gpt/config.json --out p.json",
        "gpt/config.json: model_type is 'gpt2'; decoders that can be planned are llama",
        {"gpt/config.json": '{"model_type": "gpt2"}'},
    ),
    "decoder with a trait": (
        "plan --cluster cluster.yaml --model moe --out p.json",
        "moe/config.json: num_experts is 8: a mixture of experts is not supported",
        {"moe/config.json": '{"model_type": "qwen3", "num_experts": 8}'},
    ),
    "decoder without a size": (
        "plan --cluster cluster.yaml --model half --out p.json",
        "half/config.json: hidden_size is missing",
        {"half/config.json": '{"model_type": "llama"}'},
    ),
    "longer than a decoder's positions": (
        "plan --cluster cluster.yaml --model SmolLM2-135M --num-tokens 9000 --out p.json",
        "the number of tokens is 9000; HuggingFaceTB/SmolLM2-135M has positions for 1 to 8192",
    ),
    "pixels for a decoder": (
        "plan --cluster cluster.yaml --model SmolLM2-135M --image-size 32 --out p.json",
        "tells tokens of a vocabulary apart, and image size 32 is given",
    ),
    "precision of nothing frozen": (
        f"{PLAN} --base-precision bfloat16 --out p.json",
        "--base-precision is bfloat16 without --lora-rank",
    ),
    "frozen weights of less precision than products": (
        f"{PLAN} --lora-rank 2 --base-precision bfloat16 --out p.json",
        "--base-precision is bfloat16 and --precision float32",
    ),
    # finetune
    "texts for a model of pictures": (
        "finetune plan.json --data texts:a.tab",
        "are texts; the model takes pictures",
    ),
    "pictures of another size": (f"{FINETUNE} --image-size 64", "the plan is for another model"),
    "unknown data": ("finetune plan.json --data no-such-data", "no-such-data"),
    "pictures that are nowhere": ("finetune plan.json --data imagefolder:none", "none"),
    "a picture cut off": ("finetune plan.json --data imagefolder:cut", "0.png"),
    "more pictures than there are": (f"{FINETUNE} --num-train 1000", "1,000 samples"),
    "fewer pictures than none": (f"{FINETUNE} --num-train -1", "--num-train is '-1'"),
    "training of more samples than memory holds": (
        "finetune vast.json --data imagefolder:pictures",
        "100,000 samples of vit_tiny_patch16_224 take",
    ),
    "no weights": (f"{FINETUNE} --weights none.safetensors", "none.safetensors"),
    "weights that are none": (
        f"{FINETUNE} --weights bad.safetensors",
        "bad.safetensors",
        {"bad.safetensors": "weights"},
    ),
    "weights cut off": (
        f"{FINETUNE} --weights bad.safetensors",
        "bad.safetensors",
        {"bad.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "},
    ),
    "no epochs": (f"{FINETUNE} --epochs 0", "--epochs is '0'"),
    "texts of a decoder for pictures": (
        "finetune plan.json --data jsonl:pairs.jsonl",
        "are texts without classes; they are for a decoder",
        {"pairs.jsonl": '{"prompt": "why", "completion": "so"}'},
    ),
    "packed pictures": (f"{FINETUNE} --packed", "--packed is for texts that a decoder foretells"),
    # what a model says
    "says nothing": ("generate vit_tiny_patch16_224 --prompt why", "only a decoder tells text"),
    "asked for no tokens": (
        "generate SmolLM2-135M --prompt why --max-new-tokens 0",
        "--max-new-tokens is '0'",
    ),
    "no such model to ask": ("generate none --prompt why", "'none'"),
    "a folder without a training": ("generate . --prompt why", "has neither adapters nor"),
    "unknown optimizer to plan for": (
        f"{PLAN} --optimizer muon --out p.json",
        "optimizer is 'muon'; it must be one of sgd,",
    ),
    "unknown optimizer": (
        f"{FINETUNE} --optimizer muon",
        "optimizer is 'muon'; it must be one of sgd,",
    ),
    "layer decay above 1": (
        f"{FINETUNE} --layer-decay 1.1",
        "layer decay is 1.1; it must be above 0",
    ),
    "warm-up in steps": (
        f"{FINETUNE} --warmup 5",
        "warm-up is 5.0; it must be a share of all steps",
    ),
    "clipping to nothing": (f"{FINETUNE} --clip-norm 0", "norm of clipping is 0.0"),
    "all of a label smoothed away": (f"{FINETUNE} --label-smoothing 1", "label smoothing is 1.0"),
    "an average that stays": (f"{FINETUNE} --ema 1", "decay of the average of weights is 1.0"),
    "tests without steps between": (f"{FINETUNE} --eval-every 0", "--eval-every is '0'"),
    "float16 of a plan of four bytes": (
        f"{FINETUNE} --amp-dtype float16",
        "--amp-dtype float16 is for a plan of two bytes",
    ),
    "unknown lr schedule": (f"{FINETUNE} --lr-schedule linear", "--lr-schedule is 'linear'"),
    "learning rate below 0": (f"{FINETUNE} --learning-rate -1", "learning rate is -1"),
    "learning rate of NaN": (f"{FINETUNE} --learning-rate nan", "learning rate is nan"),
    "checkpoint that is not": (f"{FINETUNE} --resume none", "none"),
    "no checkpoint yet": (f"{FINETUNE} --resume latest --out o", "checkpoint"),
    "keep no checkpoint": (f"{FINETUNE} --keep 0", "--keep is '0'"),
    # demo
    "demo of pictures that are nowhere": (f"demo {SMALL} --data imagefolder:none --out o", "none"),
    "demo of too few pictures": (
        f"demo {SMALL} --data imagefolder:pictures --num-train 3 --num-test 2 --out o",
        "3",
    ),
    "demo on a cluster that is not": ("demo --cluster none.yaml --out o", "none.yaml"),
    "demo of a budget below 0": (
        f"demo {SMALL} --data imagefolder:pictures --budget-compute -1 --out o",
        "budget is -1",
    ),
    "demo without epochs": (
        f"demo {SMALL} --data imagefolder:pictures --epochs 0 --out o",
        "--epochs is '0'",
    ),
    # studies
    "study of nothing": ("study", "give a study file"),
    "study and summary": ("study study.yaml --summarize run", "give a study file"),
    "no study": ("study none.yaml", "none.yaml: cannot be read"),
    "study that is a text": (BAD_STUDY, "must be a mapping", {"bad.yaml": "hello"}),
    "study without seeds": (BAD_STUDY, "seeds is missing", study("seeds: [0]\n", "")),
    "seed of a word": (BAD_STUDY, "seeds[0]", study("seeds: [0]", "seeds: [zero]")),
    "kind of method": (BAD_STUDY, "methods[0].kind", study("kind: dense", "kind: magic")),
    "two methods of one name": (
        BAD_STUDY,
        "names must differ",
        study("{name: dense, kind: dense}", "{name: d, kind: dense}, {name: d, kind: dense}"),
    ),
    "budget of two kinds": (BAD_STUDY, "budgets[0]", study("0.6}", "0.6, step_time: 0.5}")),
    "study budget above one": (BAD_STUDY, "budgets[0].compute", study("0.6", "6")),
    "no pictures to train on": (
        BAD_STUDY,
        "data.num_train",
        study("num_train: 12", "num_train: 0"),
    ),
    "study of samples of two sizes": (
        BAD_STUDY,
        "data.image_size is 32 and data.num_tokens 8",
        study("image_size: 32", "image_size: 32, num_tokens: 8"),
    ),
    "fewer pictures than a mini-batch": (
        BAD_STUDY,
        "the 6 samples",
        study("num_train: 12", "num_train: 4"),
    ),
    "another number of classes": (
        BAD_STUDY,
        "data.num_classes is 3",
        study("num_classes: 2", "num_classes: 3"),
    ),
    "study of a cluster that is not": (
        BAD_STUDY,
        "none.yaml",
        study("[cluster.yaml]", "[none.yaml]"),
    ),
    "study of pictures that are nowhere": (
        BAD_STUDY,
        "nowhere",
        study("imagefolder:pictures", "imagefolder:nowhere"),
    ),
    "study of a device that is not": (
        BAD_STUDY,
        "z",
        study("{name: dense, kind: dense}", "{name: d, kind: data_parallel, without: [z]}"),
    ),
    "study with an unknown solver": (
        BAD_STUDY,
        "magic",
        study("{name: dense, kind: dense}", "{name: d, kind: schedule, solver: magic}"),
    ),
    "study with an unknown score": (
        BAD_STUDY,
        "magic",
        study("{name: dense, kind: dense}", "{name: d, kind: schedule, backward_score: magic}"),
    ),
    "study of a model that timm lacks": (
        BAD_STUDY,
        "vit_nano",
        study("vit_tiny_patch16_224", "vit_nano"),
    ),
    "method that is not": ("study study.yaml --only none --out o", "--only is 'none'"),
    "no runs": ("study study.yaml --max-runs 0", "--max-runs is '0'"),
    "summary of nothing": ("study --summarize none", "none"),
    "results that are none": ("study study.yaml --out damaged", "runs.csv"),
    # report
    "no run directory": ("report none", "none"),
    "run directory that is a file": ("report a-file", "a-file"),
    "run directory without results": ("report pictures", "pictures"),
    "damaged run directory": ("report damaged-run", "measurement.json"),
}
