"""Questions that sites answer by counts: what may be asked, how a site answers, and how answers are summed."""
