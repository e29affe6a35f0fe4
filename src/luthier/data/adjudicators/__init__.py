"""Adjudicators that decide a label from several annotations, one file each."""
