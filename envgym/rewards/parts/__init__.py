"""The reward parts that ship with envgym, one file a family. Every public function here can be named in a YAML."""
