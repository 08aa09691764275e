"""What a policy can do: success on worlds and on benchmarks, each figure with its uncertainty."""
