-- Asks for the paths of its arguments in turns, from memory: requests are made once.
local requests = {}
local count = 0
local index = 0

function init(args)
  for _, path in ipairs(args) do
    count = count + 1
    requests[count] = wrk.format("GET", path)
  end
end

function request()
  index = index % count + 1
  return requests[index]
end
