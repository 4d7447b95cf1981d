"""The agent on the phone: plans, loads and runs shards, and answers local HTTP calls. Never imports host."""

import os

# numpy's few products (attention, heads) are small: threads of BLAS that spin for them cost more than they give, above
# all beside others at work (a head for 16 texts: 67 ms alone, 4.8 s in two threads on a busy machine). Before numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
