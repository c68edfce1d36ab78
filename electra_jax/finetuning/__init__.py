"""Tasks on top of a pretrained model: training, prediction, evaluation."""
