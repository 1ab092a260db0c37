"""The one decode loop: prompt -> prefill, step, step, ... -> pieces.

    prompt.py    text or messages -> input_ids
    decode.py    one call of the model
    recorded.py  on a CUDA device: the same call, recorded
    sampler.py   logits -> token
    text.py      tokens -> text, whole characters only
    clock.py     what this stream alone has cost
    stream.py    all of it together: an iterator of pieces

The command line, the speed profile and the chat all use it, so that one number means the same in each.
"""
