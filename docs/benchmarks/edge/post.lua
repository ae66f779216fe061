-- wrk -s post.lua URL -- FILE TYPE [LENGTH]: posts a file over and over, and prints one line of JSON.
function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    wrk.method, wrk.body = "POST", file:read("*a")
    wrk.headers["Content-Type"] = arguments[2]
    if arguments[3] then wrk.headers["Inference-Header-Content-Length"] = arguments[3] end
    request_text = wrk.format()
end

function request() return request_text end

function done(summary, latency)
    local errors = summary.errors
    local bad = errors.status + errors.connect + errors.read + errors.write + errors.timeout
    io.write(string.format('\n{"rate": %.1f, "bad": %d, "p50_us": %d, "p99_us": %d}\n',
        summary.requests / summary.duration * 1e6, bad, latency:percentile(50), latency:percentile(99)))
end
