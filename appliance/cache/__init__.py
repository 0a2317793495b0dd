"""The semantic answer cache: which request may share an answer with which, and where the answers are."""
