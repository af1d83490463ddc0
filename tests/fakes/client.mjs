// Program of the official Node client: a chat with tools, a stream, and an error. Prints JSON.
import OpenAI from "openai";

const [url, given] = process.argv.slice(2);
const { model, messages, tools } = JSON.parse(given);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });

const whole = await client.chat.completions.create({ model, messages, tools });
const runner = client.chat.completions.stream({ model, messages, tools });
const streamed = await runner.finalChatCompletion();
let refused = null;
try {
  await client.chat.completions.create({ model, messages, top_p: 0.5 });
} catch (error) {
  refused = { name: error.constructor.name, status: error.status, param: error.param };
}
const text = await client.chat.completions.create({ model, messages, stop: "Both", tools });
console.log(JSON.stringify({
  whole: whole.choices[0],
  streamed: streamed.choices[0],
  refused,
  stopped: text.choices[0].message.content,
}));
