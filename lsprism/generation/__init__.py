"""Text generation: prompt -> prefill, step, step, ... -> pieces of text.

    prompt.py    text or messages -> input_ids
    decode.py    one forward pass of the model
    cuda_graph.py  the same as a CUDA graph, on CUDA devices
    kv_cache.py  KV cache with preallocated buffers
    sampler.py   logits -> token
    detokenizer.py  tokens -> text, complete characters only
    timing.py    compute time of one stream
    stream.py    all of it together: an iterator of pieces

The command line, the speed evaluation and the chat share this loop, so their timings are comparable.
"""
