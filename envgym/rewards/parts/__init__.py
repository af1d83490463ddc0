"""Reward parts that ship with envgym, one file a family. A YAML can name every public function."""
