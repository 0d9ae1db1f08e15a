"""Training: any model, by its `models.training.Training`, in a run's folder."""
