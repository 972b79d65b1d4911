-- For wrk: checks every answer's status and body. Arguments after --: status, text that the body must hold.
-- Its last line: right answers, wrong ones, failed connections, timeouts, and the first wrong answer.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wanted = tonumber(args[1])
  text = args[2]
  right = 0
  wrong = 0
  sample = ""
end

function response(status, headers, body)
  if status == wanted and string.find(body, text, 1, true) then
    right = right + 1
  else
    wrong = wrong + 1
    if sample == "" then sample = status .. " " .. string.sub(body, 1, 80) end
  end
end

function done(summary, latency, requests)
  local rightCount, wrongCount, first = 0, 0, ""
  for _, thread in ipairs(threads) do
    rightCount = rightCount + thread:get("right")
    wrongCount = wrongCount + thread:get("wrong")
    if first == "" then first = thread:get("sample") end
  end
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write
  io.write(string.format("%d %d %d %d %s\n", rightCount, wrongCount, failed, errors.timeout, first))
end
