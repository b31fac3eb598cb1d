"""The command `fastdiff`: one file a command."""
