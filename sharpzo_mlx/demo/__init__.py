"""placeholder"""
from pathlib import Path
from sharpzo_mlx.demo.figures import ANIMALS, PLANTS
LIVING=(*ANIMALS,*PLANTS)
MODEL_FOLDER=Path(__file__).parent/"model"
