-- As wrk.lua, but no two requests are alike: each has an identifier of its own, in its path and in a header.
local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(folder .. "wrk.lua")

local number = math.random(1, 1000000000)

request = function()
  number = number + 1
  wrk.headers["X-Request-Id"] = string.format("%032x", number)
  return wrk.format("GET", wrk.path .. "?n=" .. number)
end
