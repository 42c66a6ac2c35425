#!/usr/bin/env bash
# Makes an HTML reference of the header: one anchor for each function, with its text.
# usage: reference.sh nvmehost.h > nvmehost.html
set -euo pipefail
awk '
function esc(s) { gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s); return s }
BEGIN {
    print "<!DOCTYPE html><meta charset=\"utf-8\"><title>libnvmehost</title>"
    print "<style>body{max-width:60em;margin:2em auto;font-family:sans-serif}pre{background:#eee;padding:.5em}</style>"
    print "<h1>libnvmehost</h1>"
}
/^\/\// { sub(/^\/\/ ?/, ""); doc = doc esc($0) ($0 == "" ? "<p>" : "\n"); next }
/^ \*|^\/\*/ { next }
/^[a-z].*\(|^#define NVMEH_|^typedef|^struct/ { inside = 1 }
inside {
    code = code esc($0) "\n"
    if (match($0, /nvmeh_[a-z0-9_]+\(/) && name == "") name = substr($0, RSTART, RLENGTH - 1)
    if (/;$|^#define/ && code !~ /\{/ || /^};|^} / ) {
        printf "<a id=\"%s\"></a><pre>%s</pre>\n<p>%s\n", name, code, doc
        code = doc = name = ""; inside = 0
    }
    next
}
{ doc = "" }
' "$1"
