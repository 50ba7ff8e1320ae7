"""2,048 short words to say a fingerprint with: 11 bits a word.

Of three to six letters, in alphabetical order, and few that sound alike. Their order is part of the
protocol: changed, two sides of different versions would show different words for one key.
"""

from typing import Final

_TEXT = """
able acid acorn acre act actor adapt add adult after again age agent agree ahead aid aim air
aisle alarm album alder alert algae alive alley allow alloy almond alone alpha alpine also
altar alter amber amend ample amuse anchor angle animal ankle annex answer ant antler anvil
apart apex apple april apron arc arch arctic arena argue arm armor army aroma array arrow
art artist ascend ash aside ask aspen asset atlas atom attic aunt author auto autumn avoid
awake award aware awning axe axis axle azure baby back bacon badge badger bag bagel bake
baker bald ball ballet balsa bamboo banana band banjo bank banner bar bare bark barley barn
baron barrel basil basin basket bat batch bath baton bay beach bead beak beam bean bear
beard beast beat beaver bed bee beef beet beetle begin bell belt bench bend beret berry best
beta better bevel bib bike bin birch bird bison bit bite black blade blaze blend blink block
bloom blouse blue bluff blush board boat body boil bold bolt bond bone bonnet bonus book
boost boot border bottle bottom bowl box boy brain brake branch brass brave bread break
breeze brew brick bride bridge brief bright bring brisk broad bronze brook broom broth brown
brush bubble bucket buckle bud budget bugle build bulb bulk bull bumper bun bundle bunny
buoy bureau burn burrow bus bush busy butler butter button buy buzz cab cabin cable cactus
cadet cafe cage cake calf call calm camel camera camp can canal canary candle candy cane
canoe canopy canvas canyon cap cape car carbon card cargo carol carpet carrot carry cart
carve case cash cask castle cat catch cattle cave cedar celery cello cement center cereal
chain chair chalk chance chapel charm chart chase cheap check cheek cheer cheese chef cherry
chess chest chick chief child chime chin chip choir choose chorus cider cinder cinema circle
circus city civil claim clam clap class claw clay clean clear clerk clever cliff climb
clinic clip cloak clock clone cloth cloud clove clover clown club clue coach coal coast coat
cobalt cobra cocoa cod code coffee coil coin cold collar color colt column comb come comet
comic common cone cook cookie cool copper copy coral core cork corn corner cosmos cost
cotton couch cougar count county couple course court cousin cover cow cowboy coyote crab
cradle craft crane crater crayon cream creek crew crisp crop cross crow crowd crown cruise
crumb crust cub cube cup curb cure curl curry curve custom cut cycle dad daily dairy daisy
dam dance danger dark dart dash data date dawn day deal debut decade decide deck deep delay
delta den denim depot depth desert design desk detail dew dial diary dice diet dig digit
dime diner dinner dipper direct dish ditch dive divide dock doctor dog doll dome domino
donkey donor door dot double dough dove down dozen draft dragon drain drama draw dream dress
drift drill drink drive drop drum dry duck duel duet dugout duke dune dusk dust duty dwarf
eager eagle ear early earth ease easel east easy eat echo edge edit eel effort egg elbow
elder elect elf elk elm ember emit empire empty enamel end energy engine enjoy enter entry
envoy epic epoch equal equip era erase errand error essay estate event ever every exact exam
excel exist exit expert extra eye fable fabric face fact factor fade fair fairy faith falcon
fall family fan fancy far farm fast father faucet favor fawn feast feed feel felt fence fern
ferry fetch few fiber fiddle field fig figure file fill film filter final finch find finger
finish fir fire firm first fish five fix flag flame flash flask flat flavor flax flea fleece
fleet flight flint flip float flock floor flora flow flower fluid flute fly foal foam focus
fog foil fold folk follow food foot force forest forge fork form fort forum fossil found fox
frame free freeze fresh friday fridge friend frog front frost fruit fuel full fun fund
fungus funnel fur future fuzzy gadget gain galaxy gale gallon gallop game gamma garage
garden garlic garnet gas gate gather gauge gear gecko gem genie genius gentle geyser giant
gift ginger give glad glance glass glaze gleam glide globe glory glove glow glue goal goat
gold golf gong good goose gopher gorge gown grab grace grade grain grand grant grape graph
grass gravel gravy gray great green greet grid grill grin grip grocer group grove grow guard
guess guest guide guild guitar gulf gull gum guppy guru gust gym gypsum habit hail half hall
halo hammer hand handle hangar happy harbor hard harp hat hatch haven hawk hay hazel head
health heap hear heart heat heavy hedge heel height heir helium hello helmet help hemp hen
herb herd here hermit hero heron hiccup hidden high hike hill hinge hint hip hippo hire hive
hobby hockey hold hollow holly home honest honey hood hoof hook hoop hope horn horse hose
host hotel hour house hover hub hug human humble humor hunt hurdle hurry husky hut hymn ibis
ice icicle icing icon idea ideal idle igloo image impact inch income index indigo indoor ink
inlet inn inner input insect inside invent invite iris iron island item ivory ivy jackal
jacket jade jaguar jam jar java jaw jay jazz jeans jelly jersey jet jetty jewel job jockey
jog join joke jolly joy judge juggle juice july jumbo jump june jungle junior jury just kale
kayak keel keen keep kelp kennel kernel kettle key kick kid kidney kiln kilo kilt kind king
kiosk kit kite kitten kiwi knee knife knob knock know koala label lace ladder lady lagoon
lake lamb lamp lance land lane lap lapel large lark larva laser lasso last latch late latte
laugh launch laurel lava lawn lawyer layer lazy lead leader leaf league lean leap learn
leash leave ledge left leg legend lemon lend lens lentil lesson letter level lever lid life
lift light lilac lily limb lime limit linen liner link lint lion lip liquid list listen
liter little live lizard llama load loaf loan lobby local lock locust lodge loft log logic
long look loom loop lotion lotus loud lounge love low loyal lucky lumber lunar lunch lung
lupin lute lynx lyric macaw magic magma magnet magpie maid mail main major make mallet malt
manage mango manner manor mantle map maple marble march mare margin marina marine mark
market maroon marsh mask mason mast master mat match math matrix may mayor maze meadow meal
mean medal media medium mellow melody melon melt member memo memory mend mentor menu mercy
merit merry mesh metal meteor meter method metro middle mile milk mill mimic mind mine mini
mink minor mint minus minute mirror mist mitten mix mixer mobile model modem modern modest
module moist mole moment monday money monkey month moon moose mop moral more mosaic moss
motel moth mother motion motor mount mouse mouth move movie mud muffin mug mule muscle
museum music mute myth nail name napkin narrow nation native nature navy near neat neck
nectar need needle neon nephew nerve nest net nettle never new news newt next nice nickel
niece night nimble nine noble noise nomad noodle noon normal north nose note notice nova
novel now nozzle number nurse nut nutmeg nylon oak oar oasis oat oath object oboe ocean odd
offer office often oil olive omega omelet once onion only onyx opal open opera option oracle
orange orbit orchid order organ origin oriole osprey other otter ounce out outer output oval
oven over owl owner oxygen oyster ozone pace pack paddle page pail paint palace palm panda
panel pants papaya paper parade parcel pardon parent park parrot part party pass pasta paste
pastel pastry patch path patio patrol patron pause pave paw pay pea peach peak peanut pearl
pebble pecan peel pen pencil penny people pepper perch period permit person phase phone
photo phrase piano pick pickle picnic pie pier pigeon pilot pin pinch pine pink pint pipe
pirate pit pitch pixel pizza place plaid plan planet plant plate play plaza please pledge
plenty plot plow plug plum plus pocket poem poet point polar pole police polish polite
pollen polo pond pony pool poplar porch port portal post potato potter pouch pound powder
power praise prawn press pretty price pride prime prince print prism prize profit proof
proper prose proud prune public puffin pull pulley pulp pulse puma pump punch pupil puppet
puppy pure purple purse push puzzle quail quarry quart quartz queen quest quick quiet quill
quilt quince quiver quiz quota quote rabbit race rack radar radio radish raft rail rain
raise raisin rally ram ramp ranch random range rank rapid rare rate raven ravine ray reach
ready real reason recipe record red reef reel refine region relax relay relic rely remain
remedy remote rent repair repeat reply report rescue resin rest result return reveal review
reward rhino rhyme rhythm ribbon rice rich riddle ride ridge ring ripple rise river road
roast robe robin robot rocket rodeo roll roof room rope rose rotor rough round rover row
royal ruby rudder rug ruler rumor run runway rural rush rustic rye sable sack saddle safari
safe sage sail saint salad salmon salon salsa salt salute same sample sand sandal sap satin
sauce saucer sauna save savory saxon scale scarf scenic school scoop score scout screen
screw script scroll seal search season seat second secret seed seek select send senior sense
sentry sequel series serve settle seven shade shadow shaft shake shape share shark sharp
shed sheep sheet shelf shell shield shift shine ship shirt shoe shop shore short shovel show
shower shrimp shrub shy side sierra sight sign signal silent silk silo silver simple singer
single siren sister site six size skate sketch ski skill skin skirt sky slate sled sleep
sleeve slice slide slim slope slow small smart smile smith smoke smooth snack snail snake
sneeze snow soap soccer social sock soda sofa soft soil solar solid solo sonar song sonic
soot sound soup source south soy space spade spark speak spear speech speed spell sphere
spice spider spike spin spiral spirit splash sponge spoon sport spot spray spring sprint
sprout spruce square squash squid stable stack staff stage stamp stand staple star start
state statue stay steam stem step stereo stew stick still stitch stock stone stool stop
store stork storm story stove strap straw stream street string stripe strong studio study
style subway sugar suit sulfur summer summit sun sunday sunset super supper supply sure surf
swamp swan sway swift swim swing switch sword syrup system table tablet tackle taco tail
tailor talent talk tall talon tan tango tank tape tapir target tariff taro tart task taste
tavern tax taxi tea teach team tear teeth tell temple tempo ten tender tennis tenor tent
term test text thank theme theory thick thin thing think third thorn thread three thrill
throne throw thumb thyme tiara ticket tidy tie tiger tile timber time tin tiny tip tire
title toad toast today toe toffee token tomato ton tone tongue tonic tool tooth top topaz
topic torch total totem toucan touch tough tour towel tower town toy trace track trade trail
train tram travel tray treat tree trek trend tribe trick trim trio trip trophy trout truck
true trunk trust truth try tube tulip tuna tundra tune tunnel turban turkey turn turnip
turtle tutor tweed twelve twice twig twin twist type udder umber umpire uncle under union
unique unit unity upper upset urban urge urn use usher usual vacant vacuum valid valley
value valve van vapor vase vast vault vector velvet vendor venue verb verse very vessel vest
video view villa vine vinyl viola violet violin virtue visa vision visit visor vital vivid
vocal voice volley volume vote vowel voyage wafer waffle wagon walk wall wallet walnut
walrus waltz wander want warm wash wasp watch water wave wax way wealth weave web wedge weed
weigh well west whale wharf wheat wheel whip white whole wide wild willow win wind window
wine wing winner winter wire wisdom wise wish wizard wolf wonder wood wool word work world
worth wrap wreath wren wrist xenon yacht yak yam yard yarn year yeast yellow yes yeti yodel
yoga yogurt yolk young youth yucca zebra zephyr zero zest zigzag zinc zipper zone zoo zoom
"""

WORDS: Final = tuple(_TEXT.split())
