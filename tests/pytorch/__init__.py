"""PyTorch's own tests of optimizers, schedulers and losses, run with Piste's classes in PyTorch's place."""
