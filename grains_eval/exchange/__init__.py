"""Steering vectors in other tools' files: llama.cpp, lm-eval's `steered`, repeng, steering-vectors and EasySteer.

All of them hold one vector a layer that is added to that layer's output. What is written is therefore the vector as it
is applied, strength and unit included; what a format cannot hold is refused or said in one line. One format a file.
"""
