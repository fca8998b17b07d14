"""Recall track: does the model answer, and since when?"""
