"""Results as text: terminal, notebook, JSON, CSV and TSV, Markdown, HTML; and the files they are written to."""
