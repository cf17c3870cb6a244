"""What is found out about the kernels, a file each: ``run(out)`` returns JSON values, lines to be told as "wrong"."""
