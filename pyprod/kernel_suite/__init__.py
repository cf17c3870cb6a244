"""The benchmark suite of the kernels: each against every peer that can run here, side by side, under the roofline.

A Candidate says it all: its workload is a problem (``linear/n768-k768``: a file of `problems` and sizes), its backend a
peer (a file of `peers` and a variant), its batch the number of rows. The verb is ``pyprod bench --suite kernels``.
"""

from __future__ import annotations
