"""The page of a study: a jinja2 template and its style; batch_report.py fills it."""

# ruff: noqa: E501

STYLE = """
 body { font: 15px/1.5 "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #22303a; margin: 0; }
 main { max-width: 1100px; margin: 0 auto; padding: 20px 24px 70px; }
 .banner { background: #22303a; color: #fff; text-align: center; font-size: 13px; padding: 5px; }
 h1 { font-size: 23px; margin: 14px 0 2px; } h2 { font-size: 17px; margin: 30px 0 8px;
 border-bottom: 1px solid #d5dbe0; } .soft { color: #5d6b75; font-size: 13px; }
 .warn { background: #fdf3e7; border-left: 4px solid #d1742a; padding: 8px 14px; color: #8a4b10; }
 .fine { background: #eef6f0; border-left: 4px solid #4c8c5b; padding: 8px 14px; }
 ul { margin: 4px 0; padding-left: 22px; font-size: 13px; }
 table { border-collapse: collapse; width: 100%; font-size: 13px; margin: 8px 0; }
 th { text-align: left; border-bottom: 1.5px solid #22303a; padding: 4px 8px 4px 0; }
 td { border-bottom: 1px solid #d5dbe0; padding: 3px 8px 3px 0; vertical-align: top; }
 td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
 tr.sum td { font-weight: 600; border-top: 1.5px solid #22303a; } img { max-width: 100%; }
 .no { color: #8a4b10; } .yes { color: #2f6e3f; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>endorecon study: {{ plan.name }} (not for clinical use)</title><style>{{ style }}</style></head>
<body><div class="banner">Not for clinical use. Research software; no figure below may guide a treatment.</div>
<main><h1>{{ plan.title or plan.name }}</h1>
<p class="soft">{{ date }} · endorecon {{ version }} · {{ units|length }} units: {{ done }} done, {{ failed|length }} failed, {{ open }} open</p>
{% if failed %}<div class="warn"><strong>Failed</strong><table><tr><th>case</th><th>setting</th><th>repeat</th><th>step</th><th>why</th></tr>
{% for u in failed %}<tr><td>{{ u.case }}</td><td>{{ u.setting }}</td><td>{{ u.repeat }}</td><td>{{ u.step }}</td><td>{{ u.sentence }}</td></tr>{% endfor %}</table>
<p>The statistics below leave these out: they hold for the cases that could be reconstructed.</p></div>
{% else %}<div class="fine">No unit failed.</div>{% endif %}
{% for w in warnings %}<p class="warn">{{ w }}</p>{% endfor %}
{% for setting, rows, trees, picture, agreed, lost in distances %}
<h2>Clinical distances: {{ setting }}</h2>
<table><tr><th>distance</th><th class="n">cases</th><th class="n">measures</th><th class="n">CT</th><th class="n">reconstruction</th><th class="n">difference</th><th class="n">SD</th><th class="n">95 % interval</th><th class="n">mean |d|</th><th class="n">worst |d|</th><th class="n">in interval</th>{% for m in margins %}<th class="n">within ±{{ m }}</th>{% endfor %}</tr>
{% for r in rows %}<tr{% if loop.last %} class="sum"{% endif %}><td>{{ r.name }}</td><td class="n">{{ r.cases }}</td><td class="n">{{ r.measures }} of {{ r.planned }}</td><td class="n">{{ r.ct|num }}</td><td class="n">{{ r.recon|num }}</td><td class="n">{{ r.difference|num(3, True) }}</td><td class="n">{{ r.sd|num(3) }}</td><td class="n">{{ r.interval|between(True) }}</td><td class="n">{{ r.absolute|num(3) }}</td><td class="n">{{ r.worst|num(3) }}</td><td class="n">{{ (100 * r.inside)|num(0) }} %</td>{% for m, p, ok in r.verdicts %}<td class="n {{ 'yes' if ok else 'no' }}">{% if p == p %}{{ 'yes' if ok else 'no' }} ({{ p|p }}){% else %}–{% endif %}</td>{% endfor %}</tr>{% endfor %}</table>
<p class="soft">mm; difference = reconstruction − CT. A case counts once: clicks of observers and repeats are averaged first; the last row averages the distances of a case before anything is tested. Interval of the mean difference by bootstrap over cases; the last columns say whether the difference is shown to lie within a margin (equivalence by TOST, two one-sided t tests, at 5 %; p in brackets); “in interval”: share of single measures whose own 95 % interval holds the CT value.</p>
{% if lost %}<div class="warn">Not measured, and not in the table:<ul>{% for sentence in lost %}<li>{{ sentence }}</li>{% endfor %}</ul></div>{% endif %}
<img src="{{ trees }}" alt="forest plot of the distances">
{% if picture %}<img src="{{ picture }}" alt="Bland-Altman plot"><p class="soft">Bland-Altman over {{ agreed[0].n }} measures of {{ agreed[0].subjects }} distances: bias {{ agreed[0].bias|num(3, True) }} mm, limits {{ agreed[0].lower|num(3, True) }} to {{ agreed[0].upper|num(3, True) }} mm; bands are 95 % intervals.{% if agreed[1].repeatability == agreed[1].repeatability %} Of that, the clicks add (SD, mm; {{ agreed[1].method }}): {{ agreed[1].repeatability|num(3) }} between repeats of one observer, {{ agreed[1].between_observer|num(3) }} between observers; {{ agreed[1].between_distance|num(3) }} is the distance's own.{% endif %}</p>{% endif %}
{% endfor %}
{% for metric, rows, box, trees in metrics %}
<h2>{{ metric }}</h2><p class="soft">{{ words[metric] }}; one number a case (mean over repeats).{% if rows|length > 1 %} p: sign-flip permutation test of the paired differences; with n cases it cannot fall below 2 / 2<sup>n</sup>.{% endif %}</p>
<table><tr><th>setting</th><th class="n">cases</th><th class="n">missing</th><th class="n">mean</th><th class="n">SD</th><th class="n">median</th><th class="n">P95</th><th class="n">95 % interval of the mean</th>{% if rows|length > 1 %}<th class="n">against {{ baseline }}</th><th class="n">p (paired)</th>{% endif %}</tr>
{% for s in rows %}<tr><td>{{ s.setting }}</td><td class="n">{{ s['values']|length }}</td><td class="n">{{ s.failed }}</td><td class="n">{{ s.mean|num(3) }}</td><td class="n">{{ s.sd|num(3) }}</td><td class="n">{{ s.median|num(3) }}</td><td class="n">{{ s.p95|num(3) }}</td><td class="n">{{ s.interval|between }}</td>{% if rows|length > 1 %}<td class="n">{% if s.against %}{{ s.against.mean|num(3, True) }} ({{ (s.against.low, s.against.high)|between(True) }}){% endif %}</td><td class="n">{% if s.against %}{{ s.against.p|p }}{% endif %}</td>{% endif %}</tr>{% endfor %}</table>
<img src="{{ box }}" alt="box plot">{% if trees %}<img src="{{ trees }}" alt="forest plot">{% endif %}
{% endfor %}
<h2>Units</h2><table><tr><th>case</th><th>setting</th><th class="n">repeat</th><th>state</th><th>fit</th><th class="n">frames posed</th><th class="n">minutes</th>{% for m in names %}<th class="n">{{ m }}</th>{% endfor %}<th>page</th></tr>
{% for u in units %}<tr><td>{{ u.case }}</td><td>{{ u.setting }}</td><td class="n">{{ u.repeat }}</td><td class="{{ 'no' if u.state == 'failed' else '' }}">{{ u.state }}</td><td>{{ u.result.fit.status }}</td><td class="n">{{ u.result.fit.frames_posed }}</td><td class="n">{{ (u.seconds / 60)|num(1) }}</td>{% for m in names %}<td class="n">{{ u.metrics[m]|num(3) }}</td>{% endfor %}<td>{% if u.page %}<a href="{{ u.page }}">report</a>{% elif u.log %}<a href="{{ u.log }}">log</a>{% endif %}</td></tr>{% endfor %}</table>
</main></body></html>
"""
