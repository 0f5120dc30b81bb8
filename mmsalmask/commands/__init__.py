"""What the words after ``mmsalmask`` run, a module each."""
