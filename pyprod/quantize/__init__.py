"""Post-training quantization: which layers of a float model run in integers, and on which scales.

The result is the float model and a `QuantSpec`; backends lower it. A file each:

| file | what it does |
|---|---|
| `observe` | ranges of activations from real data: min-max, percentile, mean squared error, entropy |
| `simulate` | the model as integers would compute it, in float: any layer, on any machine |
| `sensitivity` | what each layer costs when it alone is quantized |
| `ptq` | a step of a recipe: dynamic or static scales for all layers, or all but some |
| `mixed` | a step of a recipe: as many layers as an accuracy budget allows |
"""
