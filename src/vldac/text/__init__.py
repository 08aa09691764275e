"""Text as device arrays: token tables, prompts, the action grammar."""
