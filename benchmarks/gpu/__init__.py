"""Questions about GPUs, one file for each; `run.py` asks them."""

QUESTIONS = (
    "resident_pair",
    "resident_star",
    "resident_all_pairs",
    "small_tensors",
    "bert_pairs",
    "from_page_cache",
    "torch_formulas",
)
