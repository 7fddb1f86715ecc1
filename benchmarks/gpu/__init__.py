"""Questions about GPUs, one file for each; `run.py` asks them."""

QUESTIONS = (
    "resident_pair",
    "resident_star",
    "resident_all_pairs",
    "small_tensors",
    "bert_pairs",
    "torch_formulas",
    "from_page_cache",  # last: its files are 16 GiB, and a slow disk takes minutes for them
)
