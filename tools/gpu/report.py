# SPDX-License-Identifier: Apache-2.0
"""Which rows may be published, and all of a run as Markdown."""


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def why_not_published(row, simulated=False):
    """None: it may be. A row has a floor (a bound for rates), what was achieved, and the share."""
    if simulated or row.get("simulated", False) is not False:
        return "simulated"
    names = ("floor", "achieved", "share") if "unit" in row else ("floor_us", "median_us", "share")
    missing = [key for key in names if not number(row.get(key))]
    return "no " + ", ".join(missing) if missing else None


def markdown(result):
    device, parts = result["device"], result["parts"]
    lines = [f"# GPU check, part {result['part']}: {device.get('name', 'a device that nvidia-smi does not name')}", "",
             f"Commit {result['commit']}, {result['time']}, driver {device.get('driver_version', '?')}, SM clock {device.get('clocks.sm', '?')} "
             f"before and {result['device_after'].get('clocks.sm', '?')} after (at most {device.get('clocks.max.sm', '?')}), memory clock "
             f"{device.get('clocks.mem', '?')}, power limit {device.get('power.limit', '?')}.", ""]
    if result["simulated"]:
        lines += ["A rehearsal on the tests' stand-in: no GPU computed anything here, and none of it is published.", ""]
    if "there" in parts and "libraries" in parts["there"]:
        lines += ["| there | |", "|---|---|"] + [f"| {what} | {name or 'missing'} |" for what, name in parts["there"]["libraries"].items()] + [""]
    lines += ["| number | aim | ours | |", "|---|---|---|---|"]
    lines += [f"| {g['goal']} | {g['aim']} | {g['ours']} | {g['verdict']}{': ' + g['why'] if g.get('why') else ''} |" for g in result["goals"]] + [""]
    lines += ["| part | | s |", "|---|---|---|"]
    lines += [f"| {name} | {'good' if part['good'] else 'NOT GOOD'} | {part['seconds']:.1f} |" for name, part in parts.items()] + [""]
    if "tests" in parts.get("twins", {}):
        lines += ["| twins | passed | failed | skipped |", "|---|---|---|---|"]
        lines += [f"| {t['name']} | {t['passed']} | {len(t['failed'])} | {len(t['skipped'])} |" for t in parts["twins"]["tests"]] + [""]
    lines += kernel_rows(result["rows"]) + rate_rows(result["rows"]) + ([] if result["simulated"] else peer_rows(parts))
    notes = [(name, note) for name, part in parts.items() for note in part.get("notes", [])]
    if notes:
        lines += [f"- {name}: {' '.join(str(note).split())}" for name, note in notes] + [""]
    lines.append(f"{len(result['unpublished'])} rows without floor, time or share are not published.")
    return "\n".join(lines) + "\n"


def kernel_rows(rows):
    rows = [r for r in rows if "unit" not in r]
    if not rows:
        return []
    return ["| bench | case | floor, us | median, us | best, us | share of the floor |", "|---|---|---|---|---|---|"] + [
        f"| {r['bench']} | {r['case']} | {r['floor_us']:.4g} | {r['median_us']:.4g} | {r.get('best_us', float('nan')):.4g} | "
        f"{100 * r['share']:.0f} % |" for r in rows] + [""]


def rate_rows(rows):
    rows = [r for r in rows if "unit" in r]
    if not rows:
        return []
    return ["| bench | case | bound | achieved | share | the bound is |", "|---|---|---|---|---|---|"] + [
        f"| {r['bench']} | {r['case']} | {r['floor']:.4g} {r['unit']} | {r['achieved']:.4g} {r['unit']} | {100 * r['share']:.0f} % | "
        f"{r.get('of', '')} |" for r in rows] + [""]


def peer_rows(parts):
    peers = [p for part in parts.values() for p in part.get("peers", []) if "median_us" in p]
    if not peers:
        return []
    return ["| peer | version | case | threads | median, us |", "|---|---|---|---|---|"] + [
        f"| {p['peer']} | {p['version']} | {p['case']} | {p.get('threads', '')} | {p['median_us']:.4g} |" for p in peers] + [""]
