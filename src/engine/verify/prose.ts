/**
 * The text that every model is asked to predict, and what it is asked to continue.
 *
 * Plain English, so that a model of children's stories and one of eight billion weights can both be measured by it; written for
 * this purpose, so that no model has learned it by heart. Changing a byte of it makes recorded answers useless.
 * @module
 */

export const PROSE = `One morning, a girl named Mia went to the river with her little brother Ben. The sun was warm and the water was clear. They wanted to catch a fish for lunch, but they did not have a net.

"We can make one," said Mia. She took an old bag from her basket and tied it to a long stick. Ben laughed and clapped his hands. He sat down on a big stone and looked at the water. A small frog jumped out of the grass and sat next to him.

"Hello, frog," said Ben. "Do you want to play with us?"

The frog did not say anything. It jumped into the river with a loud splash, and all the fish swam away. Mia was a bit sad. "Now we will never catch a fish," she said.

But Ben had an idea. He took a piece of bread out of his pocket and threw it into the water. They waited and waited. After some time, the fish came back to eat the bread. Mia moved the net very slowly and caught a shiny fish. It was so small that it could sit in her hand.

"It is only a baby," said Ben. "It wants to go home to its mom."

Mia looked at the fish and smiled. She put it back into the river and watched it swim away. Then the two children ate the rest of the bread and went home. They told their mother about the frog and the fish, and she was very proud of them.`;

/** The same words backwards: whoever predicts this as well does not read sentences. */
export const SHUFFLED = PROSE.split(/\s+/).toReversed().join(' ');

/** Continued with the most likely token each time, so that answers can be compared token by token. */
export const STORY_PROMPT = 'Once upon a time, there was a little';

/** A fact that a model trained on the web knows. */
export const FACT = { prompt: 'The capital of France is', answer: 'Paris' } as const;

/** All that a model is asked: recorded answers belong to this and to nothing else. */
export const QUESTIONS = [PROSE, SHUFFLED, STORY_PROMPT, FACT.prompt].join('\n');
