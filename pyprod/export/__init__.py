"""Export: from a module to the file that production ships; a file each."""
