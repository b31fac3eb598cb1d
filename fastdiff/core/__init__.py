"""What every room uses: the door for arrays, options, statistics, threads, progress, files."""
