"""The page of the report of an evidence bundle: no scripts, nothing from elsewhere.

Jinja2 escapes every value; `shown` makes what cannot be printed visible, and `<bdi>` keeps text
that runs from right to left from rearranging what stands around it.
"""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>Evidence of {{ manifest.tenant_id }}, leaves {{ first }} to {{ last }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
 color: #1b1f24; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #d8dee4;
 vertical-align: top; overflow-wrap: anywhere; }
th { background: #f3f5f7; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere;
 white-space: pre-wrap; }
.gap { color: #a40e26; font-weight: 600; } .quiet { color: #59636e; }
.counts { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1.5rem; }
</style>
</head>
<body>
<h1>Evidence of <bdi>{{ manifest.tenant_id }}</bdi></h1>
<p class="quiet">This page is for reading. What proves it are the files beside it: verify the bundle
before you rely on what stands here.</p>
<table>
<tr><th>Log</th><td><code>{{ manifest.last.origin|shown }}</code></td></tr>
<tr><th>Exported</th><td>{{ created_at }}</td></tr>
<tr><th>Range</th><td>{{ "{:,}".format(manifest.receipts) }} leaves,
{% if manifest.receipts %}index {{ first }} to {{ last - 1 }}{% else %}none{% endif %}</td></tr>
<tr><th>From checkpoint</th><td>size {{ first }}, root <code>{{ from_root }}</code></td></tr>
<tr><th>To checkpoint</th><td>size {{ last }}, root <code>{{ to_root }}</code></td></tr>
<tr><th>Receipts</th><td>{{ "{:,}".format(tally.receipts) }}</td></tr>
<tr><th>Erased payloads</th><td>{{ "{:,}".format(tally.erased) }}</td></tr>
</table>

<h2>Controls</h2>
{% if covered %}
<table>
<tr><th>Control</th><th>Description</th><th>Receipts</th><th>Evidence</th><th>Missing</th></tr>
{% for each in covered %}
<tr><td><bdi>{{ each.name|shown }}</bdi></td>
<td><bdi>{{ each.mapping.description|shown }}</bdi></td>
<td class="n">{{ "{:,}".format(each.receipts) }}</td>
<td>{% for kind, count in each.evidence|dictsort %}{{ kind }}: {{ "{:,}".format(count) }}<br>
{% endfor %}</td>
<td>{% if each.gaps %}<span class="gap">{{ each.gaps|join(", ") }}</span>
{% elif not each.receipts %}<span class="quiet">no activity in this range</span>
{% else %}nothing{% endif %}</td></tr>
{% endfor %}
</table>
{% else %}
<p>No control mappings are part of this bundle.</p>
{% endif %}

<h2>Counts</h2>
<div class="counts">
{% for title, counts in sections %}
<table>
<tr><th>{{ title }}</th><th>Receipts</th></tr>
{% for text, count in counts[:max_counts] %}
<tr><td><bdi>{{ text|shown }}</bdi></td><td class="n">{{ "{:,}".format(count) }}</td></tr>
{% else %}
<tr><td colspan="2" class="quiet">none</td></tr>
{% endfor %}
{% if counts|length > max_counts %}
<tr><td colspan="2" class="quiet">and {{ counts|length - max_counts }} more</td></tr>
{% endif %}
</table>
{% endfor %}
</div>

{% if tally.erased %}
<h2>Erased payloads</h2>
<p>Retention erased these payloads. Their leaf hashes, places and proofs are part of the bundle.
{% if tally.erased > tally.erased_leaves|length %}
The first {{ tally.erased_leaves|length }} of {{ "{:,}".format(tally.erased) }}:{% endif %}</p>
<table>
<tr><th>Leaf</th><th>Erased at</th><th>Recorded by receipt</th></tr>
{% for leaf in tally.erased_leaves %}
<tr><td class="n">{{ leaf.leaf_index }}</td><td>{{ leaf.erasure.erased_at.isoformat() }}</td>
<td><code>{{ leaf.erasure.receipt_id|shown }}</code></td></tr>
{% endfor %}
</table>
{% endif %}

<h2>Receipts</h2>
{% if tally.receipts > tally.rows|length %}
<p>The first {{ "{:,}".format(tally.rows|length) }} of {{ "{:,}".format(tally.receipts) }}; all of
them are in <code>receipts/</code>.</p>
{% endif %}
<table>
<tr><th>Leaf</th><th>Recorded at</th><th>Type</th><th>Agent</th><th>Caller</th><th>Tool</th>
<th>Operation</th><th>Decision</th><th>Receipt</th></tr>
{% for row in tally.rows %}
<tr><td class="n">{{ row.leaf_index }}</td><td>{{ row.recorded_at }}</td>
<td><bdi>{{ row.type|shown }}</bdi></td><td><bdi>{{ row.agent_id|shown }}</bdi></td>
<td><bdi>{{ row.caller|shown }}</bdi></td><td><bdi>{{ row.tool|shown }}</bdi></td>
<td><bdi>{{ row.operation|shown }}</bdi></td><td><bdi>{{ row.decision|shown }}</bdi></td>
<td><code>{{ row.receipt_id|shown }}</code></td></tr>
{% endfor %}
</table>

<h2>How to verify</h2>
<p>With no server and no network, on any machine with OARS installed:</p>
<pre>oars verify BUNDLE.zip --keys KEYS.json</pre>
<p>KEYS.json are the tenant's public keys, fetched by yourself (<code>oars keys list</code>).
Without them the bundle is checked against the keys that it brings along, which shows that it is
whole and consistent, but not whose it is. To show that it continues what you hold already, give
your last checkpoint: <code>--from-checkpoint FILE</code>. The API documentation specifies the
format exactly enough to write another verifier.</p>
</body>
</html>
"""
