"""The selection methods, one file each; `registry` names them."""
