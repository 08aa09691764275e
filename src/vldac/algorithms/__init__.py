"""The learning algorithms: one file each, a pure loss over what a rollout gave."""
