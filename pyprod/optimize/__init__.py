"""Steps that make a trained model cheaper; a file each. Each changes a float32 module or gives a new one.

| file | what it does |
|---|---|
| `structured` | removes channels, feed-forward width and heads: smaller dense layers, faster everywhere |
| `magnitude` | sets the smallest weights to zero: nothing here skips zeros, so it saves no time |
| `semi_structured` | two of each four weights zero: what a GPU's sparse tensor cores take |
| `finetune` | trains further, with a teacher where one is asked for |
| `layers` | a student made of some of its teacher's layers |

docs/optimize.md has what each brings, measured.
"""
