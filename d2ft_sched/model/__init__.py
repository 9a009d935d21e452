"""What is trained and how it is cut: sizes of a model, its partition into subnets, LoRA, and the
workload of a mini-batch. From outside: `ModelShape`, `Partition`, `Lora`, `Workload` and their
readers.
"""
